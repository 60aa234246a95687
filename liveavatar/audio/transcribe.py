"""Transcription: words and their times by Whisper, over the stretches that contain speech.

Speech segments are grouped into *chunks* that fit Whisper's 30 s, each decoded greedily once, so that the result is
deterministic, silence is never transcribed, and memory does not grow with the track.
"""

import logging
import string
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from liveavatar.audio.vad import Segment
from liveavatar.audio.whisper_weights import whisper_package
from liveavatar.timing import SAMPLE_RATE

if TYPE_CHECKING:
    from whisper.model import Whisper

log = logging.getLogger(__name__)

_CHUNK = 28 * SAMPLE_RATE  # samples; Whisper hears 30 s at once
_MEL_FRAME = 160  # samples
_LOOPING = 2.4  # compression ratio of text above which Whisper is known to repeat itself
_LOOP_PENALTY = 1.0  # taken off the mean log probability of such a chunk
# Mean log probability, Whisper's own limit. tiny.en: 11 recordings of speech -0.05 to -0.88; the same backwards -1.30
# to -2.83, one of them a loop; four voices at once -0.41 to -2.62.
_UNCLEAR = -1.0
_SHORTEST_WORD = 0.02  # s
_PREPENDED, _APPENDED = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """One spoken word; times in seconds from the start of the track."""

    start: float
    end: float
    text: str
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcript:
    """Result of a transcription."""

    text: str
    words: tuple[Word, ...]
    language: str
    avg_logprob: float | None  # per token, natural log; None when nothing was decoded
    clear_text: str = ""  # without the stretches that Whisper does not understand, whose words are left out, too
    unclear_seconds: float = 0.0  # of such stretches


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
    texts, clear, words, score, num_tokens, unclear = [], [], [], 0.0, 0, 0
    with _one_thread():
        for chunk in chunks_of(speech):
            piece = audio[chunk.start : chunk.stop]
            text, tokens, logprob, language, mel = _decode(piece, model, language)
            texts.append(text)
            score += logprob * (len(tokens) + 1)
            num_tokens += len(tokens) + 1
            if logprob < _UNCLEAR:
                log.info("Whisper does not understand the sound from %.1f s: %.60s", chunk.start / SAMPLE_RATE, text)
                unclear += chunk.stop - chunk.start
                continue
            clear.append(text)
            if with_words:
                words += within_speech(_align(tokens, mel, model, language, chunk), speech)
    return Transcript(
        text=" ".join(t for t in texts if t),
        words=tuple(words),
        language=language or "en",
        avg_logprob=score / num_tokens if num_tokens else None,
        clear_text=" ".join(t for t in clear if t),
        unclear_seconds=unclear / SAMPLE_RATE,
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
    tokenizer = whisper.tokenizer.get_tokenizer(
        model.is_multilingual, num_languages=model.num_languages, language=language, task="transcribe"
    )
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
