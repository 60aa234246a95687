"""Display geometry of a video: rotation and shape of its pixels, as a player applies them.

A phone stores a video as its sensor lies and writes into the header how to turn it (a *display matrix*); anamorphic
videos store pixels that are not square (*sample aspect ratio*). Both are applied to every picture that is decoded.
"""

from fractions import Fraction
from typing import Any

import numpy as np

JPEG_START = b"\xff\xd8\xff"  # FFmpeg would take a file with this start and name for one of a sequence
IDENTITY = (1, 0, 0, 1)
MAX_ASPECT = 4  # of a pixel; a header that claims more is wrong


def square_size(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """Compute (width, height) in square pixels; the shorter side of a pixel is enlarged, so nothing is lost.

    Args:
        width: stored pixels.
        height: stored pixels.
        aspect: width of a pixel over its height; None or 0 when the file does not say.
    """
    if not aspect or not Fraction(1, MAX_ASPECT) <= aspect <= MAX_ASPECT:
        return width, height
    return (round(width * aspect), height) if aspect >= 1 else (width, round(height / aspect))


def display_matrix(picture: Any) -> tuple[int, int, int, int]:
    """Read how a decoded `av.VideoFrame` is turned: signs (a, b, c, d) of x' = a x + c y, y' = b x + d y.

    Angles between the quarters are rounded to the nearest. A picture that was asked lives until the next garbage
    collection, for PyAV's side data refer to it and it to them: ask one of a video.
    """
    for data in picture.side_data:
        if data.type.name == "DISPLAYMATRIX":
            matrix = np.frombuffer(bytes(data), np.int32)
            if len(matrix) < 5:
                break
            a, b, _, c, d = (int(value) for value in matrix[:5])
            if abs(a) + abs(d) >= abs(b) + abs(c):
                return (_sign(a), 0, 0, _sign(d))
            return (0, _sign(b), _sign(c), 0)
    return IDENTITY


def _sign(value: int) -> int:
    return -1 if value < 0 else 1


def turned_size(width: int, height: int, matrix: tuple[int, int, int, int]) -> tuple[int, int]:
    """Return (width, height) of a picture after `turned`."""
    return (width, height) if matrix[0] else (height, width)


def turned(rgb: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Turn and mirror a picture [H, W, 3] by a matrix of `display_matrix`."""
    if matrix == IDENTITY:
        return rgb
    a, b, c, d = matrix
    if not a:
        rgb = rgb.swapaxes(0, 1)
    x_sign, y_sign = a or c, d or b
    return np.ascontiguousarray(rgb[::y_sign, ::x_sign])


def shown(picture: Any, aspect: Fraction | None, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Convert a decoded `av.VideoFrame` to uint8 RGB [H, W, 3] as a player shows it.

    Args:
        picture: the frame.
        aspect: width of a pixel over its height, of the stream.
        matrix: of `display_matrix`.
    """
    size = square_size(picture.width, picture.height, aspect)
    if size != (picture.width, picture.height):
        rgb = picture.to_ndarray(format="rgb24", width=size[0], height=size[1])
    else:
        rgb = picture.to_ndarray(format="rgb24")
    return turned(rgb, matrix)
