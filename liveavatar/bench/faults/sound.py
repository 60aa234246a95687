"""Faults planted in sound: functions from the driving sound of a good video to a faulty one, float32 mono 16 kHz."""

from collections.abc import Callable

import numpy as np

from liveavatar.timing import SAMPLE_RATE, SAMPLES_PER_FRAME

Heard = Callable[[np.ndarray, np.ndarray, float], np.ndarray]  # sound, another video's sound, strength


def shift(sound: np.ndarray, _: np.ndarray, frames: float) -> np.ndarray:
    """Delay the sound by frames; negative: hear it early."""
    step = int(abs(frames)) * SAMPLES_PER_FRAME
    silent = np.zeros(step, sound.dtype)
    return np.r_[silent, sound[:-step]] if frames > 0 else np.r_[sound[step:], silent]


def other(sound: np.ndarray, donor: np.ndarray, _: float) -> np.ndarray:
    """Take another video's sound."""
    return np.resize(donor, len(sound))


def tempo(sound: np.ndarray, _: np.ndarray, factor: float) -> np.ndarray:
    """Play the sound faster or slower; what is missing at the end is silent."""
    times = np.arange(len(sound)) * factor
    return np.interp(times, np.arange(len(sound)), sound, right=0.0).astype(sound.dtype)


def backwards(sound: np.ndarray, _: np.ndarray, __: float) -> np.ndarray:
    """Play the sound backwards."""
    return sound[::-1].copy()


def slip(sound: np.ndarray, _: np.ndarray, seconds: float) -> np.ndarray:
    """Delay the second half."""
    middle = len(sound) // 2
    gap = np.zeros(int(seconds * SAMPLE_RATE), sound.dtype)
    return np.r_[sound[:middle], gap, sound[middle:]][: len(sound)]


def cut(sound: np.ndarray, _: np.ndarray, seconds: float) -> np.ndarray:
    """Cut the end off."""
    return sound[: len(sound) - int(seconds * SAMPLE_RATE)]


def silent(sound: np.ndarray, _: np.ndarray, start: float) -> np.ndarray:
    """Digital silence from a share of the video on."""
    result = sound.copy()
    result[int(start * len(sound)) :] = 0
    return result


def switched_off(sound: np.ndarray, _: np.ndarray, seconds: float) -> np.ndarray:
    """Digital silence for some seconds, where the speech is loudest."""
    length = int(seconds * SAMPLE_RATE)
    power = np.convolve(sound.astype(np.float64) ** 2, np.ones(length), "valid")
    first = int(power.argmax())
    result = sound.copy()
    result[first : first + length] = 0
    return result


def white(sound: np.ndarray, _: np.ndarray, __: float) -> np.ndarray:
    """White noise instead of speech."""
    return (0.1 * np.random.default_rng(4).standard_normal(len(sound))).astype(sound.dtype)


def clipped(sound: np.ndarray, _: np.ndarray, decibels: float) -> np.ndarray:
    """Clip the sound so many dB under its peak."""
    level = float(np.abs(sound).max()) * 10 ** (-decibels / 20)
    return np.clip(sound, -level, level)
