"""Noises and rooms that the sound bench mixes with clean speech, made from a seed."""

from collections.abc import Callable

import numpy as np
from scipy.signal import fftconvolve

from liveavatar.timing import SAMPLE_RATE

PEAK = 0.95  # of full scale; a mix that is louder is turned down
HUM_HZ, HARMONICS = 50.0, 12
CHORD_SECONDS = 1.5
CHORDS = ((0, 4, 7), (5, 9, 12), (7, 11, 14), (-3, 0, 4))  # semitones above A3: I, IV, V, vi
A3_HZ = 220.0
CLICKS_PER_SECOND = 4.0
_FLOOR_HZ = 30.0  # pink noise is flat below

Noise = Callable[[np.random.Generator, int], np.ndarray]


def white(rng: np.random.Generator, num_samples: int) -> np.ndarray:
    """Make noise of equal power at all frequencies."""
    return rng.standard_normal(num_samples)


def pink(rng: np.random.Generator, num_samples: int) -> np.ndarray:
    """Make noise whose power falls by 3 dB an octave, as of wind and fans."""
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    frequency = np.fft.rfftfreq(num_samples, 1 / SAMPLE_RATE)
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(frequency, _FLOOR_HZ)), num_samples)


def hum(rng: np.random.Generator, num_samples: int) -> np.ndarray:
    """Make mains hum: 50 Hz and its harmonics, at random phases."""
    time = np.arange(num_samples) / SAMPLE_RATE
    phases = rng.uniform(0, 2 * np.pi, HARMONICS)
    return sum((np.sin(2 * np.pi * HUM_HZ * k * time + p) / k for k, p in enumerate(phases, 1)), np.zeros(num_samples))


def chords(rng: np.random.Generator, num_samples: int) -> np.ndarray:
    """Make music: a chord of plucked notes every 1.5 s."""
    out = np.zeros(num_samples)
    length = round(CHORD_SECONDS * SAMPLE_RATE)
    time = np.arange(length) / SAMPLE_RATE
    for number, start in enumerate(range(0, num_samples, length)):
        notes = (A3_HZ * 2 ** (note / 12) for note in CHORDS[number % len(CHORDS)])
        sound = sum(
            np.sin(2 * np.pi * f * k * time + rng.uniform(0, 2 * np.pi)) * np.exp(-1.5 * k * time) / k
            for f in notes
            for k in (1, 2, 3)
        )
        out[start : start + length] += np.asarray(sound)[: num_samples - start]
    return out


def clicks(rng: np.random.Generator, num_samples: int) -> np.ndarray:
    """Make clicks of about a millisecond at random times, as of a keyboard or a scratched record."""
    out = np.zeros(num_samples + SAMPLE_RATE)
    decay = np.exp(-np.arange(32) / 6.0)
    for _ in range(max(1, round(CLICKS_PER_SECOND * num_samples / SAMPLE_RATE))):
        at, height = rng.integers(num_samples), rng.uniform(0.5, 1.0) * rng.choice((-1, 1))
        out[at : at + len(decay)] += height * decay * rng.choice((-1, 1), len(decay))
    return out[:num_samples]


NOISES: dict[str, Noise] = {"white": white, "pink": pink, "hum": hum, "music": chords, "clicks": clicks}


def babble(others: list[np.ndarray], num_samples: int) -> np.ndarray:
    """Mix other voices at equal power, each repeated to the length."""
    voices = [np.resize(other, num_samples) for other in others]
    return sum((voice / max(float(voice.std()), 1e-9) for voice in voices), np.zeros(num_samples))


def mix(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> tuple[np.ndarray, np.ndarray]:
    """Add noise to speech at a ratio of mean powers.

    Args:
        speech: float32 [samples], mono 16 kHz.
        noise: [samples] at any level.
        snr_db: speech over noise.

    Returns:
        The mix and the speech in it, both float32 at the level that keeps the mix within `PEAK`.
    """
    mixed = speech + noise * (speech.std() / noise.std() * 10 ** (-snr_db / 20))
    gain = min(1.0, PEAK / float(np.abs(mixed).max()))
    return (gain * mixed).astype(np.float32), (gain * speech).astype(np.float32)


def reverberant(rng: np.random.Generator, speech: np.ndarray, rt60_s: float) -> np.ndarray:
    """Put speech into a room: the direct sound, then noise that falls by 60 dB in `rt60_s` seconds; same length."""
    num = round(rt60_s * SAMPLE_RATE)
    tail = rng.standard_normal(num) * 10 ** (-3 * np.arange(num) / num)
    tail[: SAMPLE_RATE // 200] = 0.0  # the first reflections come after 5 ms
    response = tail / np.linalg.norm(tail)
    response[0] = 1.0  # as much direct sound as reflections
    wet = fftconvolve(speech, response)[: len(speech)]
    return (wet * min(1.0, PEAK / float(np.abs(wet).max()))).astype(np.float32)
