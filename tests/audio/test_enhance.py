"""Cleaning helps where there is noise, keeps its hands off clean speech, and never changes the length."""

import json

import numpy as np
import pytest

from liveavatar.audio import dnsmos, vad
from liveavatar.audio import enhance as module
from liveavatar.audio.enhance import Enhanced, enhance, richest_start
from liveavatar.audio.loudness import integrated_loudness
from liveavatar.audio.transcribe import HeardWords, Transcript
from liveavatar.audio.vad import Segment
from liveavatar.errors import InputError
from tests.audio.sounds import noise


def _check(result: Enhanced, audio: np.ndarray) -> None:
    assert result.audio.shape == audio.shape
    assert result.audio.dtype == np.float32
    assert np.abs(result.audio).max() <= 1.0
    assert sum(c["chosen"] for c in result.candidates) == 1
    json.dumps([result.verdict, result.candidates], allow_nan=False)
    for key in ("dnsmos_before", "dnsmos_after", "wer_before", "wer_after"):
        assert (result.verdict[key] is None) == (key in result.verdict["reasons"]), key


def test_noisy_speech_is_cleaned(spoken: np.ndarray) -> None:
    track = np.concatenate([np.zeros(12_000, np.float32), spoken])
    track += noise(9.0, 0.02)[: len(track)]
    result = enhance(track, whisper="off")
    _check(result, track)
    assert result.verdict["chosen"] != "raw"
    assert result.verdict["dnsmos_after"] > result.verdict["dnsmos_before"] + 0.05
    assert result.words == ()
    pause = result.audio[1_000:8_000]
    speech = result.audio[16_000:]
    gap = 10 * np.log10(np.square(speech).mean() / np.square(pause).mean())
    raw_gap = 10 * np.log10(np.square(track[16_000:]).mean() / np.square(track[1_000:8_000]).mean())
    assert gap > raw_gap + 20  # dB: the mouth has silence to rest in


def test_clean_speech_is_left_alone(spoken: np.ndarray) -> None:
    result = enhance(spoken, whisper="tiny.en", reference_text="words that were never said")
    _check(result, spoken)
    assert result.verdict["chosen"] == "raw" or result.verdict["dnsmos_after"] > result.verdict["dnsmos_before"]
    assert result.verdict["wer_after"] <= result.verdict["wer_before"]
    assert result.verdict["clipped_share"] < 0.02
    assert len(result.words) >= 5
    if result.verdict["chosen"] == "raw":
        assert np.corrcoef(result.audio, spoken)[0, 1] == pytest.approx(1.0)
        assert integrated_loudness(result.audio) == pytest.approx(-23.0, abs=0.3)


def test_speech_far_above_its_pauses_is_not_tried(spoken: np.ndarray) -> None:
    track = np.concatenate([np.zeros(16_000, np.float32), spoken]) + noise(10.0, 0.002)[: len(spoken) + 16_000]
    result = enhance(track, whisper="off")
    _check(result, track)
    assert result.verdict["speech_over_pauses_db"] >= module.CLEAN_DB
    assert [c["name"] for c in result.candidates] == ["raw"]
    assert "it is clean" in result.verdict["reason"]


@pytest.mark.parametrize("gain", [0.001, 0.0001])  # speech of -80 and -100 dB: below the gate of loudness
def test_very_quiet_speech_is_raised(spoken: np.ndarray, gain: float) -> None:
    result = enhance(spoken * np.float32(gain), whisper="off")
    _check(result, spoken)
    assert result.verdict["speech_seconds"] > 3.0
    assert integrated_loudness(result.audio) == pytest.approx(-23.0, abs=0.5)


def test_very_quiet_noise_is_not_raised() -> None:
    audio = noise(3.0, 0.00005)
    result = enhance(audio, whisper="off")
    assert np.abs(result.audio).max() < 0.001


def test_clicks_do_not_hold_the_track_down(spoken: np.ndarray) -> None:
    track = spoken * np.float32(0.2)
    track[30_000:120_000:15_000] = 0.95
    result = enhance(track, whisper="off")
    _check(result, track)
    assert result.verdict["clicks"] >= 6  # the last pass may find traces
    assert integrated_loudness(result.audio) == pytest.approx(-23.0, abs=0.5)
    assert enhance(track, denoise="off", whisper="off").audio.max() == pytest.approx(0.891, abs=0.01)


def test_words_that_the_sound_as_it_came_does_not_hold_change_nothing(
    spoken: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    track = spoken[: 5 * 16_000] + noise(5.0, 0.02)
    track[8_000:60_000:15_000] = 0.95
    came = enhance(track, denoise="off")
    monkeypatch.setattr(module, "heard_in_both", lambda *_: [HeardWords(False, False)])
    kept = enhance(track)
    assert kept.verdict["clicks"] >= 3
    assert kept.verdict["chosen"] == "raw"
    assert (kept.text, kept.words) == (came.text, came.words)
    assert len(kept.words) >= 3
    monkeypatch.setattr(module, "heard_in_both", lambda *_: [HeardWords(True, True)])
    assert enhance(track).verdict["chosen"] != "raw"


def test_words_of_a_noisy_track_are_scored_in_both_recordings_once(
    spoken: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned = []

    def counted(_tracks: object, transcripts: tuple[Transcript, Transcript], _model: object) -> list[HeardWords]:
        cleaned.append(transcripts[1].clear_text)
        return [HeardWords(True, True)]

    monkeypatch.setattr(module, "heard_in_both", counted)
    result = enhance(spoken[: 5 * 16_000] + noise(5.0, 0.02))
    assert result.verdict["chosen"] != "raw"
    assert cleaned == [result.text]


def test_off_and_off_load_no_model(spoken: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a model was loaded")

    for where in (vad, dnsmos):
        monkeypatch.setattr(where, "onnx_session", refuse)
    monkeypatch.setattr(module, "load_whisper", refuse)
    result = enhance(spoken, denoise="off", whisper="off")
    _check(result, spoken)
    assert result.verdict["chosen"] == "raw"


def test_forced_mode_is_used_even_when_it_harms(spoken: np.ndarray) -> None:
    result = enhance(spoken, denoise="nonstationary", whisper="off")
    _check(result, spoken)
    assert result.verdict["chosen"] == "nonstationary"
    assert [c["name"] for c in result.candidates] == ["raw", "nonstationary"]
    assert result.verdict["harm"] == (result.candidates[1]["refused"] is not None)


def test_sound_without_speech_is_not_cleaned() -> None:
    audio = noise(3.0)
    result = enhance(audio)
    _check(result, audio)
    assert result.verdict["chosen"] == "raw"
    assert "no speech" in result.verdict["reason"]
    assert (result.text, result.language) == ("", "")


def test_speech_that_is_not_understood_has_no_language(spoken: np.ndarray) -> None:
    backwards = np.ascontiguousarray(spoken[: 6 * 16_000][::-1])
    result = enhance(backwards, denoise="off")
    assert result.verdict["unclear_seconds"] > 1
    assert (result.words, result.text, result.language) == ((), "", "")


def test_long_track_is_judged_on_an_excerpt(spoken: np.ndarray) -> None:
    track = np.concatenate([noise(25.0, 0.01), spoken + noise(8.0, 0.01)[: len(spoken)], noise(4.0, 0.01)])
    result = enhance(track, denoise="stationary", whisper="off", reference_text="anything")
    _check(result, track)
    assert result.verdict["wer_before"] is None


@pytest.mark.parametrize(
    ("speech", "num_samples", "start"),
    [
        pytest.param([(0, 10)], 20, 0, id="short track"),
        pytest.param([], 100, 0, id="no speech"),
        pytest.param([(0, 5), (40, 60), (62, 70)], 100, 40, id="where most is said"),
        pytest.param([(0, 5), (90, 100)], 100, 70, id="never past the end"),
    ],
)
def test_excerpt(speech: list[tuple[int, int]], num_samples: int, start: int) -> None:
    s = 16_000
    assert richest_start([Segment(start=a * s, stop=b * s) for a, b in speech], num_samples * s) == start * s


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"denoise": "magic"}, id="unknown mode"),
        pytest.param({"whisper": "gigantic"}, id="unknown model"),
    ],
)
def test_refuses(options: dict[str, str]) -> None:
    with pytest.raises(InputError, match="choose one of"):
        enhance(noise(1.0), **options)
