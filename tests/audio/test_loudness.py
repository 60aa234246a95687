"""Loudness against pyloudnorm and against the standard's own calibration."""

import math

import numpy as np
import pytest

from liveavatar.audio.loudness import integrated_loudness, normalise
from tests.audio.sounds import noise, syllables

pyloudnorm = pytest.importorskip("pyloudnorm")


@pytest.mark.parametrize(
    "audio",
    [
        pytest.param(syllables(7.3), id="speech-like with pauses"),
        pytest.param(noise(25.0), id="noise longer than a piece"),
        pytest.param(np.concatenate([noise(3.0, 0.2), noise(5.0, 0.001)]), id="quiet part is gated"),
        pytest.param(noise(0.5), id="half a second"),
    ],
)
def test_equals_pyloudnorm(audio: np.ndarray) -> None:
    expected = pyloudnorm.Meter(16_000, filter_class="DeMan").integrated_loudness(audio.astype(np.float64))
    assert integrated_loudness(audio) == pytest.approx(expected, abs=0.1)


def test_calibration() -> None:
    sine = np.sin(2 * np.pi * 997 * np.arange(160_000) / 16_000)
    assert integrated_loudness(sine) == pytest.approx(-3.01, abs=0.05)


@pytest.mark.parametrize("gain", [pytest.param(g, id=f"{20 * math.log10(g):.0f} dB") for g in (0.01, 0.3, 4.0)])
def test_normalise_reaches_the_target(gain: float) -> None:
    audio = normalise(np.float32(gain) * noise(5.0))
    assert audio.dtype == np.float32
    assert integrated_loudness(audio) == pytest.approx(-23.0, abs=0.05)


def test_peak_limits_the_gain() -> None:
    audio = 0.001 * syllables(5.0)
    audio[40_000] = 0.5
    assert np.abs(normalise(audio)).max() == pytest.approx(10 ** (-1 / 20), abs=1e-3)


def test_silence_stays_as_it_is() -> None:
    silence = np.zeros(16_000, np.float32)
    assert integrated_loudness(silence) == -math.inf
    assert np.array_equal(normalise(silence), silence)
