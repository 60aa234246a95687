"""Faults that last one second in the middle of a good video, and foreign things painted on a face.

Shapes as in `picture`.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from liveavatar.bench.faults import picture
from liveavatar.bench.faults.picture import Original, Planted
from liveavatar.timing import FPS


def for_a_second(planted: Planted) -> Planted:
    """Make a fault that lasts the middle second of one that lasts throughout."""

    def plant(original: Original, strength: float) -> np.ndarray:
        first = max(0, (len(original.frames) - FPS) // 2)
        part = slice(first, first + FPS)
        frames = original.frames.copy()
        middle = replace(original, frames=frames[part], face=original.face[part], mouth=original.mouth[part])
        frames[part] = planted(middle, strength)
        return frames

    return plant


noise_for_a_second = for_a_second(picture.noise)
blur_for_a_second = for_a_second(picture.blur)
mosaic_for_a_second = for_a_second(picture.mosaic)
bars_for_a_second = for_a_second(picture.letterbox)


def shaking_for_a_second(original: Original, pixels: float) -> np.ndarray:
    """Shake the picture for a second, by up to some pixels anew in every frame."""
    rng = np.random.default_rng(0)
    most = int(pixels)
    frames = original.frames.copy()
    first = max(0, (len(frames) - FPS) // 2)
    for t in range(first, min(first + FPS, len(frames))):
        frames[t] = np.roll(frames[t], tuple(rng.integers(-most, most + 1, 2)), (0, 1))
    return frames


def logo(original: Original, size: float) -> np.ndarray:
    """Write red letters over a cheek, as large as `size` of the eyes' distance."""

    def write(frame: np.ndarray, corner: tuple[int, int]) -> None:
        import cv2

        scale = size * original.eyes / 22  # the letters of this font are 22 pixels high
        cv2.putText(frame, "TV", corner, cv2.FONT_HERSHEY_DUPLEX, scale, (255, 40, 40), max(1, round(3 * scale)))

    return _painted(original, write, (0.1, 0.4))


def chin_patch(original: Original, size: float) -> np.ndarray:
    """Paint a white bar under the mouth, as wide as `size` of the eyes' distance."""

    def paint(frame: np.ndarray, corner: tuple[int, int]) -> None:
        x, y = corner
        reach, height = int(size * original.eyes / 2), max(1, int(0.25 * size * original.eyes))
        frame[y : y + height, max(0, x - reach) : x + reach] = 240

    return _painted(original, paint, (0.0, 0.75))


def _painted(
    original: Original, paint: Callable[[np.ndarray, tuple[int, int]], None], away: tuple[float, float]
) -> np.ndarray:
    """Paint on every frame at the face's first place, moved by a part of the eyes' distance."""
    frames = original.frames.copy()
    x, y = original.face[0] + np.array(away) * original.eyes
    for frame in frames:
        paint(frame, (int(x), int(y)))
    return frames


def few_levels(original: Original, count: float) -> np.ndarray:
    """Keep few levels of each colour."""
    step = 256 // int(count)
    return (original.frames // step * step + step // 2).astype(np.uint8)
