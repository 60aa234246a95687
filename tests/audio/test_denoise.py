"""Denoising removes noise, keeps length and speech, and fades without touching the speech."""

import numpy as np
import pytest

from liveavatar.audio import denoise as module
from liveavatar.audio.denoise import MODES, attenuate, pauses, quietest, reduce_noise
from liveavatar.audio.vad import Segment
from liveavatar.errors import InputError
from tests.audio.sounds import noise, syllables


def _power(audio: np.ndarray) -> float:
    return float(np.square(audio, dtype=np.float64).mean())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_samples", [8_000, 8_001, 16_000 * 3 + 17, 16_000 * 31 + 5])
def test_length_is_kept(mode: str, num_samples: int) -> None:
    out = reduce_noise(noise(40.0)[:num_samples], mode)
    assert out.shape == (num_samples,)
    assert out.dtype == np.float32
    assert np.isfinite(out).all()


@pytest.mark.parametrize(
    ("strength", "at_most"), [pytest.param(0.5, 0.5, id="mild"), pytest.param(0.9, 0.12, id="strong")]
)
def test_stationary_removes_known_noise(strength: float, at_most: float) -> None:
    hiss = noise(4.0, 0.02)
    assert _power(reduce_noise(hiss, "stationary", strength, noise(4.0, 0.02, seed=1))) < at_most * _power(hiss)


@pytest.mark.parametrize("mode", MODES)
def test_speech_survives(mode: str) -> None:
    clean = syllables(6.0)
    noisy = clean + noise(6.0, 0.004)
    out = reduce_noise(noisy, mode, 0.9)
    assert np.corrcoef(out, clean)[0, 1] > 0.9
    assert _power(out) > 0.2 * _power(clean)  # a held tone looks like a noise floor that moves


def test_pieces_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    audio, profile = syllables(12.0) + noise(12.0, 0.01), noise(3.0, 0.01, seed=2)
    whole = reduce_noise(audio, "stationary", 0.9, profile)
    monkeypatch.setattr(module, "PIECE", 5 * 16_000)
    pieces = reduce_noise(audio, "stationary", 0.9, profile)
    assert _power(pieces - whole) < 1e-3 * _power(whole)


@pytest.mark.parametrize("mode", MODES)
def test_silence_is_no_trouble(mode: str) -> None:
    assert not reduce_noise(np.zeros(20_000, np.float32), mode).any()


@pytest.mark.parametrize(
    ("mode", "strength"),
    [
        pytest.param("magic", 0.5, id="unknown mode"),
        pytest.param("stationary", 1.5, id="too strong"),
        pytest.param("stationary", float("nan"), id="not a number"),
    ],
)
def test_refuses(mode: str, strength: float) -> None:
    with pytest.raises(InputError):
        reduce_noise(noise(1.0), mode, strength)


def test_pauses_are_what_is_outside_speech() -> None:
    audio = np.arange(32_000, dtype=np.float32)
    speech = [Segment(start=8_000, stop=16_000), Segment(start=20_000, stop=32_000)]
    np.testing.assert_array_equal(pauses(audio, speech), np.r_[audio[:8_000], audio[16_000:20_000]])
    assert pauses(audio, [Segment(start=100, stop=32_000)]) is None


def test_quietest_finds_the_noise_floor() -> None:
    audio = np.concatenate([noise(2.0, 0.3), noise(1.0, 0.01), noise(2.0, 0.3)])
    assert np.sqrt(_power(quietest(audio))) == pytest.approx(0.01, rel=0.2)


def test_attenuate_keeps_speech_and_fades() -> None:
    audio = np.ones(32_000, np.float32)
    speech = [Segment(start=8_000, stop=12_000), Segment(start=12_500, stop=16_000)]
    out = attenuate(audio, speech, -20.0)
    assert (out[8_000:12_000] == 1).all()
    assert (out[12_500:16_000] == 1).all()
    assert out[:7_000] == pytest.approx(0.1)
    assert out[17_000:] == pytest.approx(0.1)
    assert np.abs(np.diff(out)).max() < 0.01  # no click
    assert out[12_000:12_500].min() > 0.3  # two fades meet halfway
    assert attenuate(audio, [], -20.0) == pytest.approx(0.1)


def test_attenuate_at_the_edges() -> None:
    audio = np.ones(10_000, np.float32)
    out = attenuate(audio, [Segment(start=100, stop=9_900)], -20.0)
    assert len(out) == 10_000
    assert out[0] > 0.8
    assert out[-1] > 0.8
