"""The released model's rule that turns a picture's shape and an area into the video's width and height.

Only the product of `--size W*H` counts: the picture keeps its aspect as far as sides that are multiples
of 64 pixels allow, and is never enlarged beyond that rounding.
"""

import math

STEP = 64  # pixels; the motion packer needs latent sides divisible by 8
_NUM_SCALES = 100  # scales tried, largest first
_MIN_SCALE = 0.1


def released_size(width: int, height: int, area: int) -> tuple[int, int]:
    """Video size the released pipeline picks for a picture.

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
        # 2ac where the quadratic formula has 4ac: sizes must be those the weights' users get elsewhere.
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
