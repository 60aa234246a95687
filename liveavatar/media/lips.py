"""Shutting of parted lips in a picture, by moving its own pixels.

A model that was trained on closed mouths takes teeth in its picture for a part of the face, and never hides them. Both
lips are therefore moved to a line between them: each keeps its shape, the skin around follows ever less, and what lay
between them vanishes.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from liveavatar.face.landmarks import Face

# Outlines of the mouth's opening, from corner to corner
UPPER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
LOWER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
MEETING = 0.45  # share of the gap, from above, where the lips meet
# In eye distances
AROUND = 0.8  # of the opening: nothing beyond it moves
UPPER_WHOLE, UPPER_REACH = 0.16, 0.42  # over the first, the lip moves whole; from the second, nothing moves
LOWER_WHOLE, LOWER_REACH = 0.22, 0.62
OVERLAP = 0.02  # rim of each lip that vanishes too, for landmarks are not exact
NARROW = 0.04  # gap below which rim and shadow fade
SHADOW_SIGMA = 0.018
SHADOW = 0.35  # darkening of the line between the lips

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Lips:
    """Edges of an open mouth in a picture."""

    upper: tuple[Point, ...]  # x and y of the upper lip's lower edge, pixels, from corner to corner
    lower: tuple[Point, ...]  # of the lower lip's upper edge
    eye_distance: float  # pixels

    @classmethod
    def of(cls, face: "Face") -> "Lips":
        """Take the lips of a face that was found."""
        upper, lower = (tuple((float(x), float(y)) for x, y in face.points[list(part)]) for part in (UPPER, LOWER))
        return cls(upper, lower, face.eye_distance)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Lips":
        """Read what `to_json` wrote."""
        upper, lower = (tuple(zip(values[part][::2], values[part][1::2], strict=True)) for part in ("upper", "lower"))
        return cls(upper, lower, values["eye_distance"])

    def to_json(self) -> dict[str, Any]:
        """Return the values as JSON holds them."""
        upper, lower = ([round(value, 4) for point in part for value in point] for part in (self.upper, self.lower))
        return {"upper": upper, "lower": lower, "eye_distance": round(self.eye_distance, 4)}

    def placed(self, zoom: float, left: float, top: float) -> "Lips":
        """Return the lips where a picture of which this is a part, `zoom` times as large, has them."""
        upper, lower = (
            tuple(((x + 0.5) * zoom + left - 0.5, (y + 0.5) * zoom + top - 0.5) for x, y in part)
            for part in (self.upper, self.lower)
        )
        return Lips(upper, lower, self.eye_distance * zoom)


def shut_lips(rgb: np.ndarray, lips: Lips, share: float = 1.0) -> np.ndarray:
    """Shut the lips of a picture.

    Args:
        rgb: uint8 [H, W, 3].
        lips: of the picture; may lie partly outside.
        share: how far they are shut; 0 leaves the picture as it is.

    Returns:
        uint8 [H, W, 3], a new array.
    """
    import cv2

    result = rgb.copy()
    height, width = rgb.shape[:2]
    points = np.array(lips.upper + lips.lower)
    margin = AROUND * lips.eye_distance
    left, top = np.maximum(np.floor(points.min(0) - margin), 0).astype(int)
    right, bottom = np.minimum(np.ceil(points.max(0) + margin), (width, height)).astype(int)
    if share <= 0 or left >= right or top >= bottom:
        return result
    x, y = np.meshgrid(np.arange(left, right), np.arange(top, bottom))
    shift, shadow, down = _closing(x, y, lips, share)
    places = np.stack([x + shift * down[0], y + shift * down[1]]).astype(np.float32)
    moved = cv2.remap(rgb, places[0], places[1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    result[top:bottom, left:right] = np.rint(moved * (1 - shadow[..., None]))
    return result


def _closing(x: np.ndarray, y: np.ndarray, lips: Lips, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute where the pixels of the shut mouth come from.

    Returns:
        How far down the face each pixel's source lies [h, w], its darkening [h, w], and the direction down the face.
    """
    upper, lower, unit = np.array(lips.upper), np.array(lips.lower), lips.eye_distance
    corner = upper[0]
    across = (upper[-1] - corner) / max(float(np.hypot(*(upper[-1] - corner))), 1e-6)
    down = np.array([-across[1], across[0]])
    u, v = ((x - corner[0]) * axis[0] + (y - corner[1]) * axis[1] for axis in (across, down))
    above, below = (
        np.interp(u, np.maximum.accumulate((edge - corner) @ across), (edge - corner) @ down) for edge in (upper, lower)
    )
    gap = np.maximum(below - above, 0)
    below = above + gap
    open_share = np.clip(gap / (NARROW * unit), 0, 1)
    rim = share * OVERLAP * unit * open_share
    line = above + MEETING * gap
    new_above, new_below = above + share * (line - above), below - share * (below - line)
    inside = np.clip((v - new_above) / np.maximum(new_below - new_above, 1e-6), 0, 1)
    source = above - rim + inside * (below - above + 2 * rim)
    at_upper = v - (new_above - above + rim) * _faded((new_above - v) / unit, UPPER_WHOLE, UPPER_REACH)
    at_lower = v + (below + rim - new_below) * _faded((v - new_below) / unit, LOWER_WHOLE, LOWER_REACH)
    source = np.where(v < new_above, at_upper, np.where(v > new_below, at_lower, source))
    shadow = share * SHADOW * open_share * np.exp(-(((v - line) / (SHADOW_SIGMA * unit)) ** 2) / 2)
    return source - v, shadow, down


def _faded(distance: np.ndarray, whole: float, reach: float) -> np.ndarray:
    """Fall from 1 up to the distance `whole` to 0 from `reach` on."""
    share = np.clip((distance - whole) / (reach - whole), 0, 1)
    result: np.ndarray = 1 - share * share * (3 - 2 * share)
    return result
