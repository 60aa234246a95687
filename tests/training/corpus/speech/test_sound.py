"""Other recordings sound different and keep the speech's timing."""

import numpy as np
import pytest

from liveavatar.training.corpus.speech.sound import other_recording
from liveavatar.training.corpus.speech.tracks import SAMPLE_RATE

TIME = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
SYLLABLES = np.clip(np.sin(2 * np.pi * 2.3 * TIME), 0, 1)
SPEECH = (0.2 * SYLLABLES * sum(np.sin(2 * np.pi * f * TIME + f) / f**0.5 for f in range(120, 4000, 120))).astype(
    np.float32
)


def envelope(audio: np.ndarray) -> np.ndarray:
    """Loudness every 5 ms."""
    return np.sqrt(np.square(audio.reshape(-1, SAMPLE_RATE // 200)).mean(1))


def tone(audio: np.ndarray) -> np.ndarray:
    """Decibels of eight bands."""
    power = np.abs(np.fft.rfft(audio)) ** 2
    return 10 * np.log10(np.array([part.mean() for part in np.array_split(power, 8)]) + 1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_timing_stays(seed: int) -> None:
    augmented = other_recording(SPEECH, np.random.default_rng(seed))
    assert augmented.shape == SPEECH.shape
    assert augmented.dtype == np.float32
    assert np.abs(augmented).max() < 1
    a, b = envelope(SPEECH), envelope(augmented)
    scores = [np.corrcoef(a[20:-20], np.roll(b, lag)[20:-20])[0, 1] for lag in range(-20, 21)]
    assert abs(int(np.argmax(scores)) - 20) <= 2, "moved by more than 10 ms"
    assert max(scores) > 0.85


def test_recordings_differ_and_repeat() -> None:
    augmented = [other_recording(SPEECH, np.random.default_rng(s)) for s in range(12)]
    np.testing.assert_array_equal(augmented[3], other_recording(SPEECH, np.random.default_rng(3)))
    tones = np.stack([tone(m) for m in augmented])
    assert (tones - tones.mean(1, keepdims=True)).std(0).mean() > 2, "decibels"
    quiet = envelope(SPEECH) < 1e-4
    noise = [envelope(m)[quiet].mean() / envelope(m).max() for m in augmented]
    assert min(noise) < 0.02 < max(noise), "some are in silence, some are not"


def test_silence_stays_finite() -> None:
    assert np.isfinite(other_recording(np.zeros(16_000, np.float32), np.random.default_rng(0))).all()
