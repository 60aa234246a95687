"""When the lids shut: models that are told it (`ModelConfig.lids_told`) blink by a seeded track.

Blinks come by chance, not from sound or prompt. A network of few steps that has to invent them draws half-shut lids,
the mean of what may come; one that is told shuts them.
"""

import numpy as np

from liveavatar.timing import FPS, LATENT_FRAMES

FIRST, GAP = (0.2, 3.0), (1.5, 5.0)  # seconds before the first blink, and between two
STRETCH = 30  # seconds with draws of their own, so that any part of an endless track is known at once
_HOLD, _REACH = 0.04, 0.05  # seconds: half of what the lids stay shut, deviation of the slopes
_LAST = 0.4  # seconds before the end of a stretch without a blink, which the next one would cut off


def blink(time_s: np.ndarray, at: float) -> np.ndarray:
    """Closure 0..1 over time of one blink, about 0.2 s long."""
    return np.exp(-(np.maximum(np.abs(time_s - at) - _HOLD, 0) ** 2) / (2 * _REACH**2))


def closure(seed: int, first: int, count: int) -> np.ndarray:
    """Closure of the lids 0..1, float32 [count], of the latents from `first` on: the mean over each one's frames."""
    frames = np.arange(first * LATENT_FRAMES, (first + count) * LATENT_FRAMES)
    stretch = frames // (STRETCH * FPS)
    shut = np.zeros(len(frames))
    for k in np.unique(stretch):
        rng = np.random.default_rng([seed & 0xFFFFFFFF, int(k), 0x11D5])
        inside = stretch == k
        time_s = frames[inside] / FPS - k * STRETCH
        at = rng.uniform(*FIRST)
        while at < STRETCH - _LAST:
            shut[inside] = np.maximum(shut[inside], blink(time_s, at))
            at += rng.uniform(*GAP)
    return shut.reshape(count, LATENT_FRAMES).mean(1).astype(np.float32)
