"""Seeded blink and gaze track, the eye input of conditioned models when the user gives no track.

Blinks and glances are random, independent of sound and prompt. A network of few denoise steps that has to invent them
draws half-shut lids and eyes between two directions, the mean of the possibilities; one that is conditioned on them
does not (`ModelConfig.lids_conditioned`, `gaze_conditioned`).

An *eye track* has three columns: closure of the lids 0..1, and yaw and pitch, in radians, of the gaze, 0
being the camera.
"""

import functools

import numpy as np

from liveavatar.timing import FPS, LATENT_FRAMES

FIRST, GAP = (0.2, 3.0), (1.5, 5.0)  # seconds before the first blink, and between two
HOLD = (0.6, 2.6)  # seconds between two saccades
CAMERA = 0.55  # of the saccades lead back to the camera
AWAY = (0.10, 0.05)  # deviation of the others, radians of yaw and pitch
STRETCH = 30  # seconds that are drawn independently, so that any part of an endless track is computed at once
_SHUT, _SLOPE = 0.04, 0.05  # seconds: half of the time that lids stay shut, deviation of the slopes
_LAST = 0.4  # seconds before the end of a stretch without a blink, which the next one would cut off


def blink(time_s: np.ndarray, at: float) -> np.ndarray:
    """Compute the closure 0..1 over time of one blink, about 0.2 s long."""
    return np.exp(-(np.maximum(np.abs(time_s - at) - _SHUT, 0) ** 2) / (2 * _SLOPE**2))


def blinks(num_frames: int, rng: np.random.Generator, last_s: float = 0.0) -> np.ndarray:
    """Draw lid closure 0..1 [T], a blink every 1.5 to 5 s; none in the last `last_s` seconds."""
    time = np.arange(num_frames) / FPS
    closed = np.zeros(num_frames)
    at = rng.uniform(*FIRST)
    while at < num_frames / FPS - last_s:
        closed = np.maximum(closed, blink(time, at))
        at += rng.uniform(*GAP)
    return closed


def saccades(num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a gaze that starts at the camera: yaw and pitch, radians [T, 2]."""
    target = np.zeros((num_frames, 2))
    at, value = 0, np.zeros(2)
    while at < num_frames:
        hold = int(rng.uniform(*HOLD) * FPS)
        target[at : at + hold] = value
        at += hold
        value = np.zeros(2) if rng.random() < CAMERA else rng.normal(size=2) * AWAY
    return np.apply_along_axis(lambda x: np.convolve(np.pad(x, 1, mode="edge"), [0.2, 0.6, 0.2], "valid"), 0, target)


def eye_track(seed: int, first: int, count: int) -> np.ndarray:
    """Compute the seeded eye track of `count` latents from `first` on: float32 [count, 3], means over their frames."""
    frames = np.arange(first * LATENT_FRAMES, (first + count) * LATENT_FRAMES)
    stretch, inside = np.divmod(frames, STRETCH * FPS)
    rows = np.stack([_stretch(seed, int(k))[i] for k, i in zip(stretch, inside, strict=True)])
    return rows.reshape(count, LATENT_FRAMES, 3).mean(1).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _stretch(seed: int, index: int) -> np.ndarray:
    lids, eyes = (np.random.default_rng([seed & 0xFFFFFFFF, index, use]) for use in (0, 1))
    count = STRETCH * FPS
    return np.column_stack((blinks(count, lids, _LAST), saccades(count, eyes)))
