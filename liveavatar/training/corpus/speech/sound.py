"""Audio augmentation of speech tracks: random equaliser, gain, room reverberation and noise, same timing.

A model trained on one recording of every syllable memorises the recording instead of learning the mouth. The copies
vary as microphones, rooms and street noise do, and share only the speech.

Shapes: N samples.
"""

import numpy as np

from liveavatar.training.corpus.speech.tracks import SAMPLE_RATE

TONE_DECIBELS = 6.0  # standard deviation of the equaliser's gains
TONE_KNOBS_HZ = (60, 150, 300, 600, 1200, 2400, 4800, 8000)
GAIN_DECIBELS = 5.0
NOISE_SHARE, NOISE_DECIBELS = 0.6, (0.0, 40.0)  # of the copies; below the speech
NOISE_TILT = (0.0, 1.0)  # exponent of 1/f on the noise's power: white to pink
ROOM_SHARE, ROOM_SECONDS, ROOM_DECIBELS = 0.4, (0.15, 0.5), (-26.0, -10.0)  # of the copies; decay by 60 dB; below
LOUDEST = 0.99


def other_recording(audio_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Augment a recording: random equaliser and gain, sometimes a room and noise; float32 [N].

    The direct sound is not delayed, so the viseme events stay valid.
    """
    size = len(audio_N)
    reach = int(ROOM_SECONDS[1] * SAMPLE_RATE)
    padded = 1 << (size + reach - 1).bit_length()  # a power of two is fast, and nothing wraps around
    spectrum = np.fft.rfft(audio_N, padded)
    frequency = np.fft.rfftfreq(padded, 1 / SAMPLE_RATE)
    level = float(np.sqrt(np.mean(np.square(audio_N, dtype=np.float64)))) + 1e-9
    knobs = rng.normal(size=len(TONE_KNOBS_HZ)) * TONE_DECIBELS
    tone = np.interp(np.log(np.maximum(frequency, 1.0)), np.log(TONE_KNOBS_HZ), knobs)
    spectrum *= _factor(tone)
    if rng.random() < ROOM_SHARE:
        spectrum *= 1 + np.fft.rfft(_room(rng), padded)
    out = np.fft.irfft(spectrum, padded)[:size]
    out *= level / (float(np.sqrt(np.mean(np.square(out)))) + 1e-9) * _factor(rng.normal() * GAIN_DECIBELS)
    if rng.random() < NOISE_SHARE:
        out += _noise(size, rng) * float(np.sqrt(np.mean(np.square(out)))) * _factor(-rng.uniform(*NOISE_DECIBELS))
    return (out * min(1.0, LOUDEST / (np.abs(out).max() + 1e-9))).astype(np.float32)


def _factor(decibels: np.ndarray | float) -> np.ndarray:
    return np.asarray(10.0 ** (np.asarray(decibels) / 20))


def _room(rng: np.random.Generator) -> np.ndarray:
    """Draw a room's impulse response without the direct sound: decaying noise, its power relative to that sound."""
    seconds = rng.uniform(*ROOM_SECONDS)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    echoes = rng.normal(size=len(time)) * 10 ** (-3 * time / seconds)
    echoes[: SAMPLE_RATE // 200] = 0  # the nearest wall is a step away
    return echoes / np.linalg.norm(echoes) * _factor(rng.uniform(*ROOM_DECIBELS))


def _noise(size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw stationary noise of unit power."""
    padded = 1 << (size - 1).bit_length()
    spectrum = np.fft.rfft(rng.normal(size=padded))
    frequency = np.fft.rfftfreq(padded, 1 / SAMPLE_RATE)
    noise = np.fft.irfft(spectrum * np.maximum(frequency, 30.0) ** (-rng.uniform(*NOISE_TILT) / 2), padded)[:size]
    return np.asarray(noise / np.sqrt(np.mean(np.square(noise))))
