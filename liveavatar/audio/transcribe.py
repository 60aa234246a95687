"""Transcription: words and their times by Whisper, over the stretches that contain speech.

Speech segments are grouped into *chunks* that fit Whisper's 30 s, each decoded greedily once, so that the result is
deterministic, silence is never transcribed, and memory does not grow with the track.
"""

import logging
import string
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from liveavatar.audio.vad import Segment
from liveavatar.audio.whisper_weights import whisper_package
from liveavatar.timing import SAMPLE_RATE

if TYPE_CHECKING:
    from whisper.model import Whisper
    from whisper.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_CHUNK = 28 * SAMPLE_RATE  # samples; Whisper hears 30 s at once
_MEL_FRAME = 160  # samples
_LOOPING = 2.4  # compression ratio of text above which Whisper is known to repeat itself
_LOOP_PENALTY = 1.0  # taken off the mean log probability of such a chunk
# Mean log probability, Whisper's own limit. tiny.en: 11 recordings of speech -0.05 to -0.88; the same backwards -1.30
# to -2.83, one of them a loop; four voices at once -0.41 to -2.62.
_UNCLEAR = -1.0
# Mean log probabilities a token, set on voices that the sound bench does not report.
OBJECTION, SURE_OBJECTION, SURE_LEAD = 0.05, 0.15, 0.5
CLEAR_ANEW = -0.8
_SHORTEST_WORD = 0.02  # s
# One thread at a time: Whisper's attention has one switch for all models, which the search for word times turns.
_HEARING = threading.Lock()
_PREPENDED, _APPENDED = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """One spoken word; times in seconds from the start of the track."""

    start: float
    end: float
    text: str
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """Transcript of up to 28 s, decoded at once."""

    where: Segment
    text: str
    tokens: tuple[int, ...]
    avg_logprob: float  # per token, natural log, less a penalty for loops
    words: tuple[Word, ...] = ()

    @property
    def clear(self) -> bool:
        """Tell if Whisper understands it."""
        return self.avg_logprob >= _UNCLEAR


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcript:
    """Result of a transcription."""

    text: str
    words: tuple[Word, ...]
    language: str
    avg_logprob: float | None  # per token, natural log; None when nothing was decoded
    clear_text: str = ""  # without the stretches that Whisper does not understand, whose words are left out, too
    unclear_seconds: float = 0.0  # of such stretches
    stretches: tuple[Stretch, ...] = ()

    @classmethod
    def of(cls, stretches: Sequence[Stretch], language: str) -> "Transcript":
        """Join stretches, in order."""
        clear = [s for s in stretches if s.clear]
        num_tokens = sum(len(s.tokens) + 1 for s in stretches)
        score = sum(s.avg_logprob * (len(s.tokens) + 1) for s in stretches)
        unclear = sum(s.where.stop - s.where.start for s in stretches if not s.clear)
        return cls(
            text=" ".join(s.text for s in stretches if s.text),
            words=tuple(word for s in clear for word in s.words),
            language=language,
            avg_logprob=score / num_tokens if num_tokens else None,
            clear_text=" ".join(s.text for s in clear if s.text),
            unclear_seconds=unclear / SAMPLE_RATE,
            stretches=tuple(stretches),
        )


def transcribe(
    audio: np.ndarray,
    speech: list[Segment],
    model: "Whisper",
    language: str | None = None,
    *,
    with_words: bool = True,
) -> Transcript:
    """Transcribe the speech segments of a track.

    Args:
        audio: float32 mono 16 kHz.
        speech: from `vad.find_speech`.
        language: two letters; detected on the first chunk when None (English-only models: always English).
        with_words: also find each word's time.
    """
    stretches = []
    for chunk in chunks_of(speech):
        piece = audio[chunk.start : chunk.stop]
        with _HEARING, _one_thread():
            text, tokens, logprob, language, mel = _decode(piece, model, language)
            one = Stretch(where=chunk, text=text, tokens=tuple(tokens), avg_logprob=logprob)
            if one.clear and with_words:
                words = within_speech(_align(tokens, mel, model, language, chunk), speech)
                one = replace(one, words=tuple(words))
        if not one.clear:
            log.info("Whisper does not understand the sound from %.1f s: %.60s", chunk.start / SAMPLE_RATE, text)
        stretches.append(one)
    return Transcript.of(stretches, language or "en")


class HeardWords(NamedTuple):
    """Answer whether the words of a second recording may replace those of the first."""

    likely: bool
    surely: bool


def heard_in_both(
    tracks: tuple[np.ndarray, np.ndarray], transcripts: tuple[Transcript, Transcript], model: "Whisper"
) -> list[HeardWords]:
    """Tell of every stretch if the words of the second recording of one speech may replace those of the first.

    Noise misleads Whisper, and what cleaning does to speech misleads it elsewhere. So the words of one recording are
    scored in the other. They may be taken where the first track hardly objects to them (`OBJECTION`) and both together
    find them likelier; and surely where it objects little (`SURE_OBJECTION`) and both find them much likelier
    (`SURE_LEAD`). Words that stay the same may always be taken, guessed ones never; those in place of a guess must be
    understood well (`CLEAR_ANEW`).

    Args:
        tracks: float32 mono 16 kHz of equal length: as it came, and cleaned.
        transcripts: of each, over the same speech and in one language.
        model: that made them.
    """
    first, second = transcripts
    verdicts = []
    with _one_thread():
        for old, new in zip(first.stretches, second.stretches, strict=True):
            if old.tokens == new.tokens or word_error_rate(old.text, new.text, first.language) == 0:
                as_clear = new.clear or not old.clear
                verdicts.append(HeardWords(likely=as_clear, surely=as_clear))
                continue
            where = slice(old.where.start, old.where.stop)
            in_first, in_second = (_logprobs(t[where], (old, new), model, first.language) for t in tracks)
            objection = in_first[0] - in_first[1]
            lead = in_second[1] - in_second[0] - objection
            understood = new.avg_logprob >= (_UNCLEAR if old.clear else CLEAR_ANEW)
            surely = understood and objection <= SURE_OBJECTION and lead >= SURE_LEAD
            likely = understood and objection <= OBJECTION and lead > 0
            verdicts.append(HeardWords(surely or likely, surely))
    return verdicts


def replaced(first: Transcript, second: Transcript, verdicts: Sequence[bool]) -> Transcript:
    """Take the stretches of the second transcript that may be taken, else those of the first."""
    pairs = zip(first.stretches, second.stretches, verdicts, strict=True)
    return Transcript.of([new if taken else old for old, new, taken in pairs], first.language)


def _logprobs(piece: np.ndarray, rivals: Sequence[Stretch], model: "Whisper", language: str) -> list[float]:
    """Compute the mean log probability of each stretch's tokens, the end included, in one piece of sound."""
    whisper = whisper_package()
    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(piece), model.dims.n_mels).to(model.device)
    tokenizer = _tokenizer(model, language)
    start = list(tokenizer.sot_sequence_including_notimestamps)
    with torch.no_grad():
        features = model.embed_audio(mel[None])
        found = []
        for one in rivals:
            tokens = torch.tensor([*start, *one.tokens, tokenizer.eot], device=model.device)
            scores = torch.log_softmax(model.decoder(tokens[None, :-1], features)[0].float(), -1)
            wanted = scores[torch.arange(len(tokens) - 1), tokens[1:]]
            found.append(float(wanted[len(start) - 1 :].mean()))
    return found


def _tokenizer(model: "Whisper", language: str) -> "Tokenizer":
    return whisper_package().tokenizer.get_tokenizer(
        model.is_multilingual, num_languages=model.num_languages, language=language, task="transcribe"
    )


def chunks_of(speech: list[Segment]) -> list[Segment]:
    """Group segments into stretches of at most 28 s, from the start of one to the end of another.

    A longer segment is cut every 28 s.
    """
    chunks: list[Segment] = []
    for s in speech:
        if chunks and s.stop - chunks[-1].start <= _CHUNK:
            chunks[-1] = Segment(start=chunks[-1].start, stop=s.stop)
            continue
        starts = range(s.start, s.stop, _CHUNK)
        chunks += [Segment(start=a, stop=min(a + _CHUNK, s.stop)) for a in starts]
    return chunks


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit torch to one thread: decoding is thousands of tiny products, and more threads slow a busy machine down."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _decode(piece: np.ndarray, model: "Whisper", language: str | None) -> tuple[str, list[int], float, str, Tensor]:
    whisper = whisper_package()
    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(piece), model.dims.n_mels).to(model.device)
    options = whisper.DecodingOptions(
        language=language if model.is_multilingual else "en",
        temperature=0.0,
        without_timestamps=True,
        fp16=False,
    )
    result = whisper.decode(model, mel, options)
    looping = result.compression_ratio > _LOOPING
    if looping:
        log.info("Whisper repeats itself: %.60s", result.text)
    return result.text.strip(), result.tokens, result.avg_logprob - looping * _LOOP_PENALTY, result.language, mel


def _align(tokens: list[int], mel: Tensor, model: "Whisper", language: str, chunk: Segment) -> list[Word]:
    whisper = whisper_package()
    tokenizer = _tokenizer(model, language)
    text_tokens = [t for t in tokens if t < tokenizer.eot]
    num_frames = (chunk.stop - chunk.start) // _MEL_FRAME
    timings = whisper.timing.find_alignment(model, tokenizer, text_tokens, mel, num_frames)
    whisper.timing.merge_punctuations(timings, _PREPENDED, _APPENDED)
    offset = chunk.start / SAMPLE_RATE
    return [
        Word(
            start=round(offset + float(t.start), 3),
            end=round(offset + float(t.end), 3),
            text=t.word.strip(),
            probability=round(float(t.probability), 4),
        )
        for t in timings
        if t.word.strip(string.punctuation + " ")
    ]


def within_speech(words: list[Word], speech: list[Segment]) -> list[Word]:
    """Cut the times of words to the stretch of speech that each overlaps most, or lies nearest to.

    Whisper's alignment stretches a word over the pause beside it.
    """
    spans = [(s.start / SAMPLE_RATE, s.stop / SAMPLE_RATE) for s in speech]
    return [_cut_to(word, max(spans, key=lambda span: _overlap(word, span))) for word in words] if spans else words


def _overlap(word: Word, span: tuple[float, float]) -> float:
    """Return the seconds that a word shares with a span; below 0 the distance between them."""
    return min(word.end, span[1]) - max(word.start, span[0])


def _cut_to(word: Word, span: tuple[float, float]) -> Word:
    start = min(max(word.start, span[0]), span[1] - _SHORTEST_WORD)
    end = max(min(word.end, span[1]), start + _SHORTEST_WORD)
    return replace(word, start=round(start, 3), end=round(end, 3))


def word_error_rate(reference: str, transcript: str, language: str = "en") -> float:
    """Compute the word error rate (character error rate for Chinese and Japanese), case and punctuation normalised.

    Returns:
        Edits over the length of the reference, 0 to above 1; 1.0 for any text where the reference has no words.
    """
    whisper_package()
    from jiwer import cer, wer
    from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer

    normalise = EnglishTextNormalizer() if language == "en" else BasicTextNormalizer()
    expected, found = normalise(reference).strip(), normalise(transcript).strip()
    if not any(c.isalnum() for c in expected):
        return 0.0 if not found else 1.0
    if language in ("zh", "ja", "yue"):
        return float(cer(expected.replace(" ", ""), found.replace(" ", "")))
    return float(wer(expected, found))
