"""Readings of a face in an upright crop, against the portrait's and against the frame before.

The crop is that of `texture`: eyes level, a fixed distance apart. It is compared after a blur, so that fine detail
(which `sharpness_ratio` measures) and landmark noise do not count, and after its light was matched.

Shapes: S side of the crop.
"""

from dataclasses import dataclass

import numpy as np

from liveavatar.face.landmarks import LEFT_EYE, RIGHT_EYE, RIGID, Face
from liveavatar.quality.texture import UPRIGHT_SIDE, cheek_mask, upright_map

BLUR = 2.0  # pixels of the crop
SPOT_PERCENTILE = 98.0  # of the skin: the worst fiftieth is a spot of 30 pixels or so
HALVES = ((slice(36, 100), slice(30, 72)), (slice(36, 100), slice(72, 114)))  # rows and columns: brows to nose
NOSE, TEMPLES = 4, (127, 356)
MIN_SKIN = 64  # pixels
TINT_PERCENTILE = 97.0
OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)  # outline of the face
OUTER_LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
OVAL_SHRINK, EYES_WIDENED, LIPS_WIDENED = 0.85, 1.6, 1.35  # of the outlines: no hair, lashes or teeth
COMPARABLE = 0.12  # of half the face's width: turns whose pictures can be compared


@dataclass(frozen=True, slots=True)
class Upright:
    """One face in its upright crop."""

    colour: np.ndarray  # float32 [3], mean of the cheeks, 0 to 255
    luma: np.ndarray  # float32 [S, S], blurred
    mask: np.ndarray  # bool [S, S], cheeks
    points: np.ndarray  # float32 [478, 2], in the picture


def read_upright(rgb: np.ndarray, face: Face) -> Upright:
    """Read the upright crop of a face in a picture (uint8 [H, W, 3])."""
    import cv2

    turn, shift = upright_map(face)
    crop = cv2.warpAffine(
        rgb, np.c_[turn, shift], (UPRIGHT_SIDE, UPRIGHT_SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    mask = cheek_mask(Face((face.points @ turn.T + shift).astype(np.float32), 1.0), crop.shape)
    luma = cv2.GaussianBlur(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), BLUR)
    colour = crop[mask].astype(np.float32).mean(0) if mask.any() else np.full(3, np.nan, np.float32)
    return Upright(colour, luma, mask, face.points)


def spot_step(now: Upright, before: Upright) -> float:
    """Measure spots that come or go between two frames: the 98th percentile of the skin's change, grey levels."""
    mask = now.mask & before.mask
    if mask.sum() < MIN_SKIN:
        return float("nan")
    step = (now.luma - before.luma)[mask]
    return float(np.percentile(np.abs(step - np.median(step)), SPOT_PERCENTILE))


def spots(now: Upright, portrait: Upright) -> float:
    """Measure spots that the portrait does not have: the 98th percentile of the skin's difference, grey levels.

    The portrait's light is matched first by a gain that may change evenly across the face; in light skin the levels are
    those of skin of 128.
    """
    mask = now.mask & portrait.mask
    if mask.sum() < MIN_SKIN:
        return float("nan")
    rows, columns = np.nonzero(mask)
    wanted, skin = portrait.luma[mask], now.luma[mask]
    basis = wanted[:, None] * np.stack([np.ones(len(rows)), columns / UPRIGHT_SIDE, rows / UPRIGHT_SIDE], -1)
    gains, *_ = np.linalg.lstsq(basis, skin, rcond=None)
    level = max(1.0, float(skin.mean()) / 128)
    return float(np.percentile(np.abs(skin - basis @ gains), SPOT_PERCENTILE) / level)


@dataclass(frozen=True, slots=True)
class SkinColour:
    """Colour of the skin from the eyes down, cheeks and chin, without the lips, in the upright crop."""

    chroma: np.ndarray  # float32 [S, S, 2], Cr and Cb, blurred
    mask: np.ndarray  # bool [S, S]


def read_skin_colour(rgb: np.ndarray, face: Face) -> SkinColour:
    """Read the colour of the skin in a picture (uint8 [H, W, 3])."""
    import cv2

    turn, shift = upright_map(face)
    side = (UPRIGHT_SIDE, UPRIGHT_SIDE)
    crop = cv2.warpAffine(rgb, np.c_[turn, shift], side, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    chroma = cv2.cvtColor(crop, cv2.COLOR_RGB2YCrCb)[..., 1:].astype(np.float32)
    points = (face.points @ turn.T + shift).astype(np.float32)
    mask = np.zeros(side, np.uint8)
    _fill(mask, points[list(OVAL)], OVAL_SHRINK, 1)
    mask[: max(0, int(points[list(RIGHT_EYE)].mean(0)[1]))] = 0
    for part, widened in ((RIGHT_EYE, EYES_WIDENED), (LEFT_EYE, EYES_WIDENED), (OUTER_LIPS, LIPS_WIDENED)):
        _fill(mask, points[list(part)], widened, 0)
    return SkinColour(cv2.GaussianBlur(chroma, (0, 0), BLUR), mask.astype(bool))


def _fill(mask: np.ndarray, outline: np.ndarray, scale: float, value: int) -> None:
    import cv2

    middle = outline.mean(0)
    cv2.fillPoly(mask, [np.round(middle + scale * (outline - middle)).astype(np.int32)], value)


def tints(now: SkinColour, portrait: SkinColour) -> float:
    """Measure foreign colours on the skin: the 97th percentile of how far its chroma lies from the portrait's, levels.

    What all of the skin shares (a warmer light) does not count.
    """
    mask = now.mask & portrait.mask
    if mask.sum() < MIN_SKIN:
        return float("nan")
    away = (now.chroma - portrait.chroma)[mask]
    return float(np.percentile(np.hypot(*(away - np.median(away, 0)).T), TINT_PERCENTILE))


def half_likeness(now: Upright, portrait: Upright) -> float:
    """Correlate each half of the face, brows to nose, with the portrait's; the lower of the two correlations."""
    return min(_correlation(now.luma[half], portrait.luma[half]) for half in HALVES)


def stretch(now: Upright, portrait: Upright) -> float:
    """Measure how much wider than the portrait's a face is: log of width over height of the skull's landmarks."""
    source = np.c_[portrait.points[list(RIGID)], np.ones(len(RIGID))]
    matrix = np.linalg.lstsq(source, now.points[list(RIGID)].astype(np.float64), rcond=None)[0][:2]
    across, down = np.hypot(*matrix[0]), np.hypot(*matrix[1])
    return float(np.log(max(across, 1e-6) / max(down, 1e-6)))


def turn(face: Upright) -> float:
    """Measure how far a head is turned: the nose's way off the middle of the temples over half their distance."""
    right, left = face.points[TEMPLES[0]], face.points[TEMPLES[1]]
    across = (left - right) / 2
    return float((face.points[NOSE] - (left + right) / 2) @ across / max(float(across @ across), 1e-6))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / scale) if scale > 1e-6 else 0.0
