"""Camera framing of clips, with the same face position as cropped user portraits (`liveavatar.media.portrait`)."""

import numpy as np
import torch

from liveavatar.quality.reference import LEFT_EYE, RIGHT_EYE
from liveavatar.training.corpus.head.geometry import CAMERA_DISTANCE, PIXELS_PER_CM, Camera, HeadAssets

# Position of the photo's eyes, in shares of the picture's height. Wide pictures show the same face at the same size,
# moved by whole tokens of 32 pixels.
EYE_DISTANCE, WIDE_EYE_DISTANCE = 59.5 / 384, 59.5 / 256
EYE_HEIGHT, WIDE_EYE_HEIGHT = 138 / 384, 106 / 256  # from the top
ZOOM_SPREAD, SHIFT_SPREAD = 0.06, 0.015  # framing error of real portraits; the shift in shares of the height
TIGHT_SHARE, TIGHT_SCALE = 0.15, (1.1, 1.3)  # portraits with too little room around the head; scale of their faces


def eye_centres(assets: HeadAssets, vertices: torch.Tensor) -> np.ndarray:
    """Compute the centres of both eyes, cm [2, 3], from a posed avatar's vertices [V, 3]."""
    points = vertices[assets.landmarks68]
    return torch.stack([points[eye].mean(0) for eye in (RIGHT_EYE, LEFT_EYE)]).cpu().numpy()


def framing(
    eyes: np.ndarray, height: int, width: int, scale: float = 1.0, offset: tuple[float, float] = (0.0, 0.0)
) -> Camera:
    """Compute the camera that frames a photo like a cropped portrait.

    Args:
        eyes: centres of both eyes, cm [2, 3].
        height, width: of the picture, pixels.
        scale: of the face against its usual size.
        offset: of the face from its usual place, to the right and up, in shares of the height.
    """
    wide = width > height
    centre = eyes.mean(0)
    distance = (
        float(np.linalg.norm(eyes[0] - eyes[1])) * PIXELS_PER_CM * CAMERA_DISTANCE / (CAMERA_DISTANCE - centre[2])
    )
    zoom = scale * (WIDE_EYE_DISTANCE if wide else EYE_DISTANCE) / distance
    plain = Camera(height=height, width=width, zoom=zoom).project(torch.as_tensor(centre, dtype=torch.float32))
    right = offset[0] - (float(plain[0]) - width / 2) / height
    up = offset[1] + float(plain[1]) / height - (WIDE_EYE_HEIGHT if wide else EYE_HEIGHT)
    return Camera(height=height, width=width, zoom=zoom, shift=(right, up))


def draw_camera(rng: np.random.Generator, eyes: np.ndarray, height: int, width: int) -> Camera:
    """Draw a camera: `framing` with the random zoom and shift errors of real portraits."""
    scale = float(np.exp(rng.normal() * ZOOM_SPREAD))
    if rng.random() < TIGHT_SHARE:
        scale = float(rng.uniform(*TIGHT_SCALE))
    x, y = (rng.normal(size=2) * SHIFT_SPREAD).tolist()
    return framing(eyes, height, width, scale, (x, y))
