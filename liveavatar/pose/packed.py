"""Packed pictures of a skeleton video: one array of bytes, each picture compressed by itself.

Any picture is read at once, and ten minutes have tens of megabytes. Knows neither faces nor drawing.

Shapes: F frames at 25 fps, H/W pixels of the model's picture.
"""

import zlib
from collections.abc import Iterable

import numpy as np

from liveavatar.errors import InputError

HEADER = 4  # int64 numbers before the ends of the pictures: version, F, H, W
VERSION = 1
COMPRESSION = 3  # zlib level


def pack(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """Pack pictures uint8 [H, W, 3] of one size into one array uint8 [bytes]; there must be one at least."""
    parts, shape = [], (0, 0, 3)
    for picture in pictures:
        parts.append(zlib.compress(np.ascontiguousarray(picture).tobytes(), COMPRESSION))
        shape = picture.shape
    ends = np.cumsum([len(part) for part in parts])
    header = np.array([VERSION, len(parts), *shape[:2], *ends], "<i8")
    return np.frombuffer(header.tobytes() + b"".join(parts), np.uint8)


class DrawnPose:
    """Pictures of a packed skeleton video; black after its end."""

    def __init__(self, packed: np.ndarray) -> None:
        """Open packed pictures.

        Raises:
            InputError: the array holds something else.
        """
        head = np.frombuffer(packed[: 8 * HEADER].tobytes(), "<i8") if packed.dtype == np.uint8 else np.zeros(0)
        if len(head) < HEADER or head[0] != VERSION or not (head[1:] > 0).all():
            raise InputError(
                "the pose holds no packed pictures; make it with liveavatar.pose.drawn.read_drawn, from a video or csv"
            )
        self.num_frames, self.height, self.width = (int(n) for n in head[1:HEADER])
        start = 8 * (HEADER + self.num_frames)
        self._ends = start + np.frombuffer(packed[8 * HEADER : start].tobytes(), "<i8")
        self._start, self._packed = start, packed

    def frame(self, index: int) -> np.ndarray:
        """Return one picture uint8 [H, W, 3]."""
        if index >= self.num_frames:
            return np.zeros((self.height, self.width, 3), np.uint8)
        begin = self._start if index == 0 else self._ends[index - 1]
        data = zlib.decompress(self._packed[begin : self._ends[index]].tobytes())
        return np.frombuffer(data, np.uint8).reshape(self.height, self.width, 3)

    def frames(self, start: int, stop: int) -> np.ndarray:
        """Return pictures uint8 [stop - start, H, W, 3]."""
        return np.stack([self.frame(index) for index in range(start, stop)])
