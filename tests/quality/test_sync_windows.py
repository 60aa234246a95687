"""Lips that leave their sound for some seconds: planted in the babble whose mouth is known."""

import numpy as np
import pytest

from liveavatar.quality import sync, sync_windows
from liveavatar.quality.absence import MeasureUnavailable
from liveavatar.timing import SAMPLE_RATE, SAMPLES_PER_FRAME
from tests.puppet import babble

SECONDS = 12


@pytest.fixture(scope="module")
def talk() -> tuple[np.ndarray, np.ndarray]:
    """Sound and the mouth that makes it."""
    return babble(SECONDS, seed=5)


def speech_of(audio: np.ndarray) -> sync.Speech:
    return sync.Speech.of(audio, SECONDS * 25)


def test_a_mouth_that_stops_is_timed(talk: tuple[np.ndarray, np.ndarray]) -> None:
    _, mouth = talk
    loud = np.full(len(mouth), 0.1)
    assert sync_windows.mouth_still(mouth, loud).value < 1.5
    stopped = np.where(np.arange(len(mouth)) < 150, mouth, mouth[150])
    found = sync_windows.mouth_still(stopped, loud)
    assert found.value == pytest.approx(6, abs=1)
    assert found.seconds == pytest.approx(6, abs=1)
    with pytest.raises(MeasureUnavailable, match="less than 0"):
        sync_windows.mouth_still(mouth, np.zeros(len(mouth)))


def test_a_mouth_that_speaks_in_silence_is_placed(talk: tuple[np.ndarray, np.ndarray]) -> None:
    audio, mouth = talk
    silent = audio.copy()
    silent[8 * SAMPLE_RATE :] = 0
    assert sync_windows.silent_speech(mouth, speech_of(silent).envelope_T).value > 0.05
    assert sync_windows.silent_speech(mouth, speech_of(silent).envelope_T).seconds > 7
    shut = np.where(np.arange(len(mouth)) < 200, mouth, 0.02)
    assert sync_windows.silent_speech(shut, speech_of(silent).envelope_T).value < 0.03
    with pytest.raises(MeasureUnavailable, match="no second"):
        sync_windows.silent_speech(mouth, np.full(len(mouth), 0.1))


@pytest.mark.parametrize("frames", [6, 12, 50])
def test_a_slip_of_the_second_half_is_found(frames: int, talk: tuple[np.ndarray, np.ndarray]) -> None:
    audio, mouth = talk
    lead, worst = sync_windows.slip(mouth, speech_of(audio))
    assert (lead.value < 0, worst.value > 0.5) == (True, True)
    middle = len(audio) // 2
    slipped = np.r_[audio[:middle], np.zeros(frames * SAMPLES_PER_FRAME, np.float32), audio[middle:]][: len(audio)]
    lead, worst = sync_windows.slip(mouth, speech_of(slipped))
    assert lead.value > 0.2
    assert lead.seconds > 5
    assert worst.value < 0.4


@pytest.mark.parametrize(
    ("decibels", "low", "high"),
    [
        pytest.param(0, 0, 0.02, id="as recorded"),
        pytest.param(12, 0.05, 1, id="a quarter of its peak"),
    ],
)
def test_clipped_sound_stays_at_its_peak(decibels: float, low: float, high: float) -> None:
    rng = np.random.default_rng(0)
    voice = rng.laplace(0, 0.05, 5 * SAMPLE_RATE)
    level = np.abs(voice).max() * 10 ** (-decibels / 20)
    assert low <= sync_windows.clipped_share(np.clip(voice, -level, level)) <= high
    with pytest.raises(MeasureUnavailable, match="silent"):
        sync_windows.clipped_share(np.zeros(100))


@pytest.mark.parametrize("seconds", [0.8, 1.5])
def test_sound_that_is_switched_off_under_a_speaking_mouth_is_timed(
    seconds: float, talk: tuple[np.ndarray, np.ndarray]
) -> None:
    audio, mouth = talk
    voice = audio + 0.02 * np.random.default_rng(0).standard_normal(len(audio))
    assert sync_windows.muted(mouth, voice).value == 0
    voice[5 * SAMPLE_RATE : int((5 + seconds) * SAMPLE_RATE)] = 0
    found = sync_windows.muted(mouth, voice)
    assert found.value == pytest.approx(seconds, abs=0.03)
    assert found.seconds == pytest.approx(5, abs=0.03)
    resting = mouth.copy()
    resting[5 * 25 : int((5 + seconds) * 25) + 1] = 0.02
    assert sync_windows.muted(resting, voice).value == 0, "a pause between two words that were put together"
    shutting = mouth.copy()
    around = slice(5 * 25 - 5, int((5 + seconds) * 25) + 5)
    shutting[around] = np.linspace(mouth.max(), 0.02, around.stop - around.start)
    assert sync_windows.muted(shutting, voice).value == 0, "a mouth that comes to rest"
    fading = voice.copy()
    fading[4 * SAMPLE_RATE : 5 * SAMPLE_RATE] *= np.logspace(0, -3, SAMPLE_RATE)
    assert sync_windows.muted(mouth, fading).value == 0, "a voice that comes to rest"


def test_silence_throughout_is_not_a_gap(talk: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(MeasureUnavailable, match="silent"):
        sync_windows.muted(talk[1], np.zeros(SAMPLE_RATE, np.float32))
