"""Texture measures against the portrait: PSNR of the aligned face, and sharpness.

PSNR looks at the *cheeks*: the skin from the temples to under the nose, without the eyes; hair over the forehead,
blinks and speech would otherwise count as faults. Sharpness looks at cheeks and eyes, where a face has its edges, in
octave bands of one scale: the finest detail alone hangs on how a picture was resized (1 % of scale halves it).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from liveavatar.face.landmarks import LEFT_EYE, RIGHT_EYE, RIGID, Face

CHEEKS = (127, 234, 93, 132, 206, 2, 426, 361, 323, 454, 356, 168)  # right temple to jaw, under the nose, back up
SHRINK = 0.85  # of the outline: the far cheek of a turned head and hair beside it stay out
PSNR_CAP = 60.0  # dB; equal pictures would give infinity
ECC_STEPS = 15
GAIN = (0.25, 4.0)  # change of light that is no fault: prompts ask for dim rooms
MIN_MASK = 64  # pixels; less skin than this cannot be judged
UPRIGHT_SIDE, UPRIGHT_EYES = 144, 48.0  # pixels: side and eye distance of the upright crop in which detail is measured
EYE_ROW = 0.38  # of the upright crop: where the eyes lie, from the top
BAND_EDGES = (0.7, 1.4, 2.8)  # pixels of the upright crop: sigmas between which the two bands of detail lie
SHRINK_BLUR = 0.5  # pixels of the crop: low-pass before a face is made smaller


@dataclass(frozen=True, slots=True)
class PortraitTexture:
    """Portrait face at the video's scale."""

    rgb: np.ndarray  # uint8 [H, W, 3]
    face: Face
    mask: np.ndarray  # bool [H, W], cheeks
    detail: np.ndarray  # band energies of cheeks and eyes [2], see `detail_energy`


def portrait_texture(rgb: np.ndarray, face: Face, eye_distance: float) -> PortraitTexture:
    """Scale a portrait to the video's eye distance, so that the two can be compared.

    Args:
        rgb: uint8 [H, W, 3].
        face: its face.
        eye_distance: pixels, in the video.
    """
    import cv2

    scale = eye_distance / face.eye_distance
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    height, width = rgb.shape[:2]
    scaled = cv2.resize(rgb, (max(2, round(width * scale)), max(2, round(height * scale))), interpolation=how)
    moved = Face(face.points * np.float32(scale), face.presence)
    mask = cheek_mask(moved, scaled.shape[:2])
    return PortraitTexture(scaled, moved, mask, detail_energy(scaled, moved))


def cheek_mask(face: Face, shape: tuple[int, ...], eyes: bool = False) -> np.ndarray:
    """Mask the cheeks and the nose, with or without the eyes; bool of `shape` (H, W)."""
    import cv2

    mask = np.zeros(shape[:2], np.uint8)
    outline = face.points[list(CHEEKS)]
    outline = outline.mean(0) + SHRINK * (outline - outline.mean(0))
    cv2.fillPoly(mask, [np.round(outline).astype(np.int32)], 1)
    for eye in (RIGHT_EYE, LEFT_EYE):
        points = face.points[list(eye)]
        centre = points.mean(0)
        cv2.fillConvexPoly(mask, np.round(centre + 1.5 * (points - centre)).astype(np.int32), int(eyes))
    return mask.astype(bool)


def detail_energy(rgb: np.ndarray, face: Face) -> np.ndarray:
    """Compute the energy of a face's detail in octave bands.

    The face is moved into an upright crop of fixed eye distance (cubic, with a low-pass where it shrinks). A band is
    the difference of two Gaussians whose sigmas are an octave apart; its energy is the mean square over cheeks and
    eyes.

    Args:
        rgb: uint8 [H, W, 3].
        face: its face.

    Returns:
        float64 [2], fine to coarse, in squared grey levels; NaN where too little skin is seen.
    """
    import cv2

    crop, upright = _upright(rgb, face)
    mask = cheek_mask(upright, crop.shape, eyes=True)
    if mask.sum() < MIN_MASK:
        return np.full(len(BAND_EDGES) - 1, np.nan)
    smooth = [cv2.GaussianBlur(crop, (0, 0), sigma) for sigma in BAND_EDGES]
    return np.array([float(((fine - coarse)[mask] ** 2).mean()) for fine, coarse in pairwise(smooth)])


def upright_map(face: Face) -> tuple[np.ndarray, np.ndarray]:
    """Compute the map into the upright crop: a scaled rotation [2, 2] and a shift [2], pixels of the crop."""
    right, left = (face.points[list(eye)].mean(0) for eye in (RIGHT_EYE, LEFT_EYE))
    across = left - right
    scale = UPRIGHT_EYES / max(1e-6, float(np.hypot(*across)))
    angle = -np.arctan2(across[1], across[0])
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    return turn, np.array([UPRIGHT_SIDE / 2, EYE_ROW * UPRIGHT_SIDE]) - turn @ ((left + right) / 2)


def _upright(rgb: np.ndarray, face: Face) -> tuple[np.ndarray, Face]:
    """Move a face into the upright crop: luma float32 [UPRIGHT_SIDE, UPRIGHT_SIDE], and its landmarks there."""
    import cv2

    turn, shift = upright_map(face)
    scale = float(np.hypot(*turn[0]))
    luma = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    if scale < 1:
        luma[:] = cv2.GaussianBlur(luma, (0, 0), max(1e-3, SHRINK_BLUR * float(np.sqrt(scale**-2 - 1))))
    side = (UPRIGHT_SIDE, UPRIGHT_SIDE)
    crop = cv2.warpAffine(luma, np.c_[turn, shift], side, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return crop, Face((face.points @ turn.T + shift).astype(np.float32), face.presence)


def sharpness_ratio(rgb: np.ndarray, face: Face, portrait: PortraitTexture) -> float:
    """Compute `sharpness_ratio` of one frame: its detail over the portrait's; 1 = as sharp.

    The ratio is the geometric mean over the bands of `detail_energy`; NaN where either shows too little skin.
    """
    detail = detail_energy(rgb, face)
    if not (portrait.detail > 0).all() or not (detail > 0).all():
        return float("nan")
    return float(np.exp(np.log(detail / portrait.detail).mean()))


def texture_psnr(rgb: np.ndarray, face: Face, portrait: PortraitTexture) -> float:
    """Compute `texture_psnr` of one frame: PSNR, in dB, of its cheeks aligned with the portrait's.

    The frame is warped by the affine map that fits its skull landmarks to the portrait's (least squares), refined on
    the pixels (ECC, Evangelidis 2008) so that landmark noise does not count as a fault of the skin. Its light is
    matched, by a gain per colour within 0.25 to 4 that may change evenly across the face, because the prompt may ask
    for another light. Then 10 log10(255**2 / MSE) over the portrait's cheeks, capped at 60. Head turns that an affine
    map cannot undo cost some dB: 21 to 37 is usual for a live head. It tells blotches, banding and melting skin, not
    one smooth skin from another (other heads read 20 to 28).
    """
    import cv2

    if portrait.mask.sum() < MIN_MASK:
        return float("nan")
    source = np.c_[face.points[list(RIGID)], np.ones(len(RIGID))]
    matrix = np.linalg.lstsq(source, portrait.face.points[list(RIGID)].astype(np.float64), rcond=None)[0].T
    matrix = _refined(rgb, portrait, matrix)
    height, width = portrait.rgb.shape[:2]
    moved = cv2.warpAffine(rgb, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    skin, wanted = moved[portrait.mask].astype(np.float32), portrait.rgb[portrait.mask].astype(np.float32)
    return psnr(_relit(skin, wanted, portrait.mask), wanted)


def _relit(skin_N3: np.ndarray, wanted_N3: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Relight skin to the portrait: multiply each colour by the best gain a + b x + c y (least squares)."""
    rows, columns = np.nonzero(mask)
    places = np.stack([np.ones(len(rows)), columns / mask.shape[1] - 0.5, rows / mask.shape[0] - 0.5], -1)
    result = np.empty_like(skin_N3)
    for colour in range(3):
        basis = skin_N3[:, colour, None] * places
        gains, *_ = np.linalg.lstsq(basis, wanted_N3[:, colour], rcond=None)
        result[:, colour] = skin_N3[:, colour] * np.clip(places @ gains, *GAIN)
    return result


def _refined(rgb: np.ndarray, portrait: PortraitTexture, matrix: np.ndarray) -> np.ndarray:
    import cv2

    inverse = cv2.invertAffineTransform(matrix).astype(np.float32)  # ECC wants portrait -> frame
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, ECC_STEPS, 1e-4)
    target, source = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (portrait.rgb, rgb))
    rows, columns = (np.flatnonzero(portrait.mask.any(axis)) for axis in (1, 0))
    y, x = int(rows[0]), int(columns[0])
    part = (slice(y, int(rows[-1]) + 1), slice(x, int(columns[-1]) + 1))
    shift = np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float32)
    start = (np.vstack([inverse, [0, 0, 1]]).astype(np.float32) @ shift)[:2]
    try:
        _, found = cv2.findTransformECC(
            target[part], source, start, cv2.MOTION_AFFINE, stop, portrait.mask[part].astype(np.uint8) * 255, 3
        )
    except cv2.error:  # the pictures have nothing in common; the landmarks' map stands, and the PSNR will be low
        return matrix
    return cv2.invertAffineTransform((np.vstack([found, [0, 0, 1]]) @ np.linalg.inv(shift))[:2])


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Compute the PSNR of two arrays of one shape with values to 255, in dB, capped at 60."""
    error = float(((a.astype(np.float32) - b.astype(np.float32)) ** 2).mean())
    return min(PSNR_CAP, 10 * float(np.log10(255**2 / error))) if error > 0 else PSNR_CAP
