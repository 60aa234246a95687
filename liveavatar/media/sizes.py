"""Video size and crop of the released pipeline: from a picture's shape and an area to width and height.

Only the product of `--size W*H` counts: the aspect is preserved as far as sides that are multiples of 64 pixels allow,
and the picture is never enlarged beyond that rounding.
"""

import math

import numpy as np
from PIL import Image

Box = tuple[float, float, float, float]  # left, top, right, bottom, pixels
STEP = 64  # pixels; the motion packer needs latent sides divisible by 8
_NUM_SCALES = 100  # scales tried, largest first
_MIN_SCALE = 0.1


def released_size(width: int, height: int, area: int) -> tuple[int, int]:
    """Compute the video size that the released pipeline picks for a picture.

    Args:
        width, height: of the picture, pixels.
        area: most pixels a frame may have, W*H of `--size`.

    Returns:
        (width, height), multiples of 64 with width*height <= area.
    """
    if width * height <= area:
        largest, smallest = 1.0, _MIN_SCALE
    else:
        # Smallest scale whose sides, each rounded up by 63, could still fill the area. The discriminant has
        # 2ac where the quadratic formula has 4ac, as in the released code: sizes must be the same.
        a, b, c = width * height, (STEP - 1) * (width + height), (STEP - 1) ** 2 - area
        largest = math.sqrt(area / a)
        smallest = (-b + math.sqrt(b * b - 2 * a * c)) / (2 * a)
    for i in range(_NUM_SCALES):
        scale = largest - (largest - smallest) * i / _NUM_SCALES
        w, h = (-(-int(side * scale) // STEP) * STEP for side in (width, height))
        if w * h <= area:
            return w, h
    aspect = height / width
    return (
        max(STEP, int(math.sqrt(area / aspect)) // STEP * STEP),
        max(STEP, int(math.sqrt(area * aspect)) // STEP * STEP),
    )


def released_crop(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize and centre-crop as the released pipeline does, black bars included.

    The shorter side of the picture becomes the shorter side of the video; where the other one then falls
    short, black fills it up. It reproduces that pipeline's videos; `portrait.fit_portrait` never leaves bars.

    Args:
        picture: uint8 RGB [H, W, 3].
        width, height: of the video, pixels.

    Returns:
        uint8 RGB [height, width, 3].
    """
    in_h, in_w = picture.shape[:2]
    short = min(width, height)
    scaled = (short, int(short * in_h / in_w)) if in_w <= in_h else (int(short * in_w / in_h), short)
    resized = Image.fromarray(picture)
    if scaled != (in_w, in_h):
        resized = resized.resize(scaled, Image.Resampling.BILINEAR)
    canvas = np.asarray(resized)
    missing_h, missing_w = max(0, height - canvas.shape[0]), max(0, width - canvas.shape[1])
    canvas = np.pad(canvas, ((missing_h // 2, -(-missing_h // 2)), (missing_w // 2, -(-missing_w // 2)), (0, 0)))
    top, left = (round((have - need) / 2.0) for have, need in zip(canvas.shape, (height, width), strict=False))
    return canvas[top : top + height, left : left + width]
