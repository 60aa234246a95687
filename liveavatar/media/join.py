"""Join of coded segments: no pulse where one group of pictures ends and the next begins.

A key frame is coded without what came before it, so its coding error is another one than that of the frame before,
and still parts of the picture jump by half a grey level every two seconds: a pulse that a viewer sees. A segment is
therefore coded with the error that the one before ended with, which fades out over half a second.
"""

import ffmpeg
import numpy as np
from scipy import ndimage

from liveavatar.media.ffmpeg import SCALER, run_ffmpeg

FADE_FRAMES = 12  # over which the error of the segment before fades out
CARRIED_LEVELS = 4.0  # of 255: a difference up to this is taken for coding error and carried whole
MOTION_LEVELS = 8.0  # of 255: one from this on is taken for motion and not carried
NEIGHBOURHOOD = 5  # pixels, side of the square over which differences are averaged to tell one from the other


class SegmentJoin:
    """State of the join: the coding error that the segment now being coded begins with."""

    def __init__(self) -> None:
        self._before: tuple[bytes, tuple[int, int], int] | None = None  # the segment before, not yet decoded
        self._error: np.ndarray | None = None

    def begin(self, segment_before: bytes, size: tuple[int, int], num_frames: int) -> None:
        """Take the segment before the next one, if one comes: an mp4 of `num_frames` frames of size (width, height)."""
        self._before, self._error = (segment_before, size, num_frames), None

    def frame(self, rgb: np.ndarray, index: int) -> np.ndarray:
        """Return the frame to code for frame `index` of a segment; the frames of a segment come in order.

        Args:
            rgb: uint8 [H, W, 3].
            index: 0 for the segment's first frame.

        Raises:
            MediaError: the segment before is damaged.
        """
        if self._before is not None:
            self._error, self._before = coding_error(last_frame(*self._before), rgb), None
        if self._error is None or index >= FADE_FRAMES:
            return rgb
        faded = rgb + self._error * np.float32(1 - index / FADE_FRAMES)
        return np.clip(np.rint(faded), 0, 255).astype(np.uint8)


def coding_error(shown: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """Estimate the part of `shown - rgb` that is coding error and not motion.

    Args:
        shown: the frame before, decoded, uint8 [H, W, 3].
        rgb: the frame after it, uint8 [H, W, 3].

    Returns:
        float32 [H, W, 3]; 0 where the picture moved.
    """
    difference = shown.astype(np.float32) - rgb
    size = ndimage.uniform_filter(np.abs(difference).max(2), NEIGHBOURHOOD)
    share = np.clip((MOTION_LEVELS - size) / (MOTION_LEVELS - CARRIED_LEVELS), 0, 1)
    error: np.ndarray = difference * share[..., None]
    return error


def last_frame(video: bytes, size: tuple[int, int], num_frames: int) -> np.ndarray:
    """Decode the last frame of an mp4 of ours.

    ffmpeg converts the colours, as it does before coding: a second converter may place chroma elsewhere.

    Args:
        video: the file's bytes.
        size: (width, height) in pixels.
        num_frames: frames of the video.

    Returns:
        uint8 RGB [H, W, 3].

    Raises:
        MediaError: the file is damaged.
    """
    width, height = size
    node = (
        ffmpeg.input("pipe:")
        .filter("select", f"eq(n,{num_frames - 1})")
        .filter("scale", in_color_matrix="bt709", in_range="tv", flags=SCALER)
        .output("pipe:", format="rawvideo", pix_fmt="rgb24", fps_mode="passthrough", threads=1)
    )
    pixels = run_ffmpeg(node, "reading back a segment of the video", video)
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
