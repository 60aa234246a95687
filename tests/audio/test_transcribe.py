"""Transcription: words in order and in time, silence never transcribed, error rates that ignore spelling."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from liveavatar.audio.ingest import load_audio
from liveavatar.audio.transcribe import (
    HeardWords,
    Stretch,
    Transcript,
    Word,
    chunks_of,
    heard_in_both,
    replaced,
    transcribe,
    within_speech,
    word_error_rate,
)
from liveavatar.audio.vad import Segment, find_speech
from liveavatar.audio.whisper_weights import load_whisper
from tests.audio.conftest import SAMPLE

S = 16_000


@pytest.mark.parametrize(
    ("speech", "expected"),
    [
        pytest.param([], [], id="nobody speaks"),
        pytest.param([(1, 3), (4, 9)], [(1, 9)], id="short segments share a chunk"),
        pytest.param([(1, 20), (22, 35), (40, 50)], [(1, 20), (22, 50)], id="as many as fit 28 s"),
        pytest.param([(5, 70)], [(5, 33), (33, 61), (61, 70)], id="a long one is cut"),
        pytest.param([(5, 70), (71, 80)], [(5, 33), (33, 61), (61, 80)], id="its rest takes up the next"),
    ],
)
def test_chunks(speech: list[tuple[int, int]], expected: list[tuple[int, int]]) -> None:
    chunks = chunks_of([Segment(start=a * S, stop=b * S) for a, b in speech])
    assert [(c.start // S, c.stop // S) for c in chunks] == expected


def test_jobs_beside_one_another_hear_what_each_hears_alone(spoken: np.ndarray) -> None:
    def hear(_: int) -> Transcript:
        return transcribe(spoken, find_speech(spoken), load_whisper("tiny.en"))

    alone = hear(0)
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(hear, range(6))) == [alone] * 6


def test_words_lie_in_the_speech(spoken: np.ndarray) -> None:
    model = load_whisper("tiny.en")
    shift = 3 * S
    track = np.concatenate([np.zeros(shift, np.float32), spoken, np.zeros(S, np.float32)])
    num_threads = torch.get_num_threads()
    heard = transcribe(track, find_speech(track), model)
    assert torch.get_num_threads() == num_threads
    assert len(heard.words) >= 5
    starts = [w.start for w in heard.words]
    assert starts == sorted(starts)
    assert all(w.end >= w.start for w in heard.words)
    assert starts[0] > 2.8
    assert heard.words[-1].end < len(track) / S - 0.8
    assert all(0 < w.probability <= 1 for w in heard.words)
    assert heard.avg_logprob is not None
    assert heard.avg_logprob > -1.5
    assert heard.language == "en"


@pytest.mark.skipif(not SAMPLE.is_file(), reason="data/samples/speech.wav is not here")
def test_converted_weights_recognise_speech() -> None:
    text = (
        "Good morning, and welcome to the studio. My name is Joe, and I am your digital presenter. "
        "Give me a picture and a voice, and I will bring them to life."
    )
    audio = load_audio(SAMPLE)
    heard = transcribe(audio, find_speech(audio), load_whisper("tiny.en"))
    assert word_error_rate(text, heard.text) <= 0.1
    at = {w.text.strip(".,").lower(): w.start for w in heard.words}
    assert at["morning"] < at["studio"] < at["presenter"] < at["picture"] < at["life"] < len(audio) / S


@pytest.mark.parametrize(
    ("logprob", "compression", "clear"),
    [
        pytest.param(-0.9, 1.2, True, id="speech"),
        pytest.param(-1.3, 1.0, False, id="guesses"),
        pytest.param(-0.3, 8.0, False, id="a loop"),
    ],
)
def test_what_whisper_does_not_understand_is_left_out(
    logprob: float, compression: float, clear: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = SimpleNamespace(
        text="to be able", tokens=[1, 2, 3], avg_logprob=logprob, compression_ratio=compression, language="en"
    )
    whisper = SimpleNamespace(
        pad_or_trim=lambda piece: piece, log_mel_spectrogram=lambda piece, mels: torch.zeros(1),
        DecodingOptions=SimpleNamespace, decode=lambda model, mel, options: result,
    )  # fmt: skip
    monkeypatch.setattr("liveavatar.audio.transcribe.whisper_package", lambda: whisper)
    model: Any = SimpleNamespace(dims=SimpleNamespace(n_mels=80), device="cpu", is_multilingual=False)
    heard = transcribe(np.zeros(3 * S, np.float32), [Segment(start=0, stop=2 * S)], model, with_words=False)
    assert (heard.text, heard.clear_text) == ("to be able", "to be able" if clear else "")
    assert heard.unclear_seconds == (0 if clear else 2)


@pytest.mark.nightly
def test_words_of_speech_are_kept_and_those_of_speech_backwards_are_not(spoken: np.ndarray) -> None:
    track = np.concatenate([spoken[: 5 * S], spoken[: 5 * S][::-1]])
    speech = [Segment(start=0, stop=5 * S), Segment(start=5 * S, stop=30 * S)]
    heard = transcribe(track, speech, load_whisper("tiny.en"))
    assert heard.unclear_seconds == 25
    assert heard.clear_text
    assert heard.text.startswith(heard.clear_text)
    assert len(heard.text) > len(heard.clear_text)
    assert 0 < heard.words[-1].end <= 5


def _stretch(text: str, token: int, logprob: float = -0.2, at: int = 0) -> Stretch:
    where = Segment(start=at * S, stop=(at + 1) * S)
    word = Word(start=float(at), end=at + 0.5, text=text, probability=0.9)
    return Stretch(where=where, text=text, tokens=(token, token), avg_logprob=logprob, words=(word,))


@pytest.mark.parametrize(
    ("tracks", "old", "new", "taken", "surely"),
    [
        pytest.param((1.0, -1.0), _stretch("boat", 3), _stretch("boat", 3), True, True, id="the same words"),
        pytest.param(
            (1.0, -1.0), _stretch("boat", 3), _stretch("Boat!", 4), True, True, id="the same but for spelling"
        ),
        pytest.param((0.0, -1.0), _stretch("boat", 3), _stretch("coat", 4), True, True, id="the first hardly objects"),
        pytest.param((-0.5, -1.0), _stretch("boat", 3), _stretch("coat", 4), True, True, id="both say so"),
        pytest.param((0.0, -0.15), _stretch("boat", 3), _stretch("coat", 4), True, False, id="a little likelier"),
        pytest.param((0.1, -1.0), _stretch("boat", 3), _stretch("coat", 4), True, True, id="it objects, but little"),
        pytest.param((0.0, -0.15), _stretch("boat", 3, -1.2), _stretch("coat", 4), True, False, id="for a guess"),
        pytest.param(
            (0.0, -1.0), _stretch("boat", 3, -1.2), _stretch("coat", 4, -0.9), False, False, id="half guessed"
        ),
        pytest.param(
            (0.0, -1.0), _stretch("boat", 3), _stretch("coat", 4, -0.9), True, True, id="half guessed for clear"
        ),
        pytest.param((1.0, -3.0), _stretch("boat", 3), _stretch("coat", 4), False, False, id="the first objects"),
        pytest.param((0.01, 0.0), _stretch("boat", 3), _stretch("coat", 4), False, False, id="the second is no surer"),
        pytest.param((0.0, -1.0), _stretch("boat", 3), _stretch("coat", 4, -1.2), False, False, id="guessed"),
        pytest.param((0.0, -1.0), _stretch("boat", 3, -1.2), _stretch("coat", 4), True, True, id="better than a guess"),
        pytest.param((0.0, 0.0), _stretch("boat", 3, -1.2), _stretch("boat", 3, -1.2), True, True, id="the same guess"),
    ],
)
def test_words_of_a_cleaned_track_are_scored_in_the_raw_one(
    tracks: tuple[float, float], old: Stretch, new: Stretch, taken: bool, surely: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def logits(tokens: torch.Tensor, liking: torch.Tensor) -> torch.Tensor:
        scores = torch.zeros(1, tokens.shape[1], 10)
        scores[..., 3], scores[..., 4] = float(liking), -float(liking)
        return scores

    tokenizer = SimpleNamespace(sot_sequence_including_notimestamps=(0, 1), eot=9)
    whisper = SimpleNamespace(
        pad_or_trim=lambda piece: piece, log_mel_spectrogram=lambda piece, mels: torch.tensor(float(piece.mean())),
        tokenizer=SimpleNamespace(get_tokenizer=lambda *_, **__: tokenizer),
    )  # fmt: skip
    monkeypatch.setattr("liveavatar.audio.transcribe.whisper_package", lambda: whisper)
    model: Any = SimpleNamespace(
        dims=SimpleNamespace(n_mels=80), device="cpu", is_multilingual=False, num_languages=1,
        embed_audio=lambda mel: mel, decoder=logits,
    )  # fmt: skip
    raw, cleaned = (np.full(S, liking, np.float32) for liking in tracks)
    transcripts = Transcript.of([old], "en"), Transcript.of([new], "en")
    assert heard_in_both((raw, cleaned), transcripts, model) == [HeardWords(taken, surely)]


def test_stretches_are_replaced_one_by_one() -> None:
    first = Transcript.of([_stretch("one", 3), _stretch("two", 4, -2.0, at=1)], "en")
    second = Transcript.of([_stretch("won", 5), _stretch("too", 6, at=1)], "en")
    assert (first.text, first.clear_text, first.unclear_seconds) == ("one two", "one", 1.0)
    both = replaced(first, second, [False, True])
    assert (both.text, both.clear_text, both.unclear_seconds) == ("one too", "one too", 0.0)
    assert [word.text for word in both.words] == ["one", "too"]
    assert replaced(first, second, [False, False]) == first


def test_nothing_heard_in_nothing() -> None:
    heard = transcribe(np.zeros(S, np.float32), [], load_whisper("tiny.en"))
    assert (heard.text, heard.words, heard.avg_logprob) == ("", (), None)


@pytest.mark.parametrize(
    ("reference", "heard", "language", "rate"),
    [
        pytest.param("Hello, world!", "hello world", "en", 0.0, id="case and punctuation do not count"),
        pytest.param("I do not colour it", "I don't color it", "en", 0.0, id="nor do spellings"),
        pytest.param("red green blue black", "red green black", "en", 0.25, id="a word left out"),
        pytest.param("one", "one and two and three", "en", 4.0, id="more wrong than said"),
        pytest.param("one two", "", "en", 1.0, id="nothing heard"),
        pytest.param("", "", "en", 0.0, id="nothing said or heard"),
        pytest.param("...", "some words", "en", 1.0, id="words where none were said"),
        pytest.param("你好，世界", "你好世间", "zh", 0.25, id="Chinese counts characters"),
    ],
)
def test_word_error_rate(reference: str, heard: str, language: str, rate: float) -> None:
    assert word_error_rate(reference, heard, language) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("start", "end", "cut"),
    [
        pytest.param(1.2, 1.6, (1.2, 1.6), id="inside"),
        pytest.param(1.8, 2.9, (1.8, 2.0), id="into the pause behind"),
        pytest.param(0.2, 1.3, (1.0, 1.3), id="into the pause before"),
        pytest.param(1.9, 3.9, (3.0, 3.9), id="over a pause: where most of it lies"),
        pytest.param(2.2, 2.4, (1.98, 2.0), id="in the pause: at its nearer edge"),
        pytest.param(2.7, 2.9, (3.0, 3.02), id="in the pause, near its end"),
    ],
)
def test_words_do_not_reach_into_silence(start: float, end: float, cut: tuple[float, float]) -> None:
    speech = [Segment(start=16_000, stop=32_000), Segment(start=48_000, stop=64_000)]
    (word,) = within_speech([Word(start=start, end=end, text="x", probability=0.5)], speech)
    assert (word.start, word.end) == pytest.approx(cut)
