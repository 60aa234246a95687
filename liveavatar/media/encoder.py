"""SegmentEncoder: the ffmpeg that codes one segment of a video, replaced when somebody kills it."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np

from liveavatar.files import read_bytes
from liveavatar.media.ffmpeg import ATTEMPTS, SCALER, ffmpeg_binary, ffmpeg_failure, was_killed


class SegmentEncoder:
    """Encoder of one segment: takes its frames, and gives a fragmented mp4.

    It keeps the frames of the segment (`FilmWriter` begins another encoder every 48 frames), so that another ffmpeg can
    code them when this one is killed, as by a system that is out of memory. Both give the same bytes.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: int, options: Mapping[str, Any]) -> None:
        """Start ffmpeg.

        Args:
            path: file to write.
            size: (width, height) of the frames, pixels.
            fps: frames per second.
            options: of ffmpeg's output.
        """
        self._path, self._frames = path, list[bytes]()
        node = (
            ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{size[0]}x{size[1]}", r=fps)
            .filter("scale", out_color_matrix="bt709", out_range="tv", flags=SCALER)
            .output(str(path), format="mp4", video_track_timescale=fps * 512, **options)
            .global_args("-hide_banner", "-loglevel", "error")
            .overwrite_output()
        )
        self._command = node.compile(cmd=ffmpeg_binary())
        self._starts, self._stderr = 0, b""
        self._process = self._start()

    def write(self, frame: np.ndarray, what: str) -> None:
        """Code one frame, uint8 RGB [H, W, 3].

        Args:
            frame: the picture.
            what: beginning of an error message.

        Raises:
            CapacityError: disk full.
            MediaError: ffmpeg failed, or was killed again and again.
        """
        self._frames.append(frame.tobytes())
        if not self._feed(self._frames[-1]):
            self._replace(what)

    def finish(self, what: str) -> bytes:
        """End the segment and return its mp4; raises like `write`."""
        while not self._ended_well():
            self._replace(what)
        return read_bytes(self._path)

    def abort(self) -> None:
        """Kill ffmpeg and drop what it wrote."""
        self._process.kill()
        self._process.communicate()
        self._path.unlink(missing_ok=True)

    def _start(self) -> "subprocess.Popen[bytes]":
        self._starts += 1
        return subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def _feed(self, frame: bytes) -> bool:
        """Hand a frame to ffmpeg; False when it has gone."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(frame)
        except (BrokenPipeError, ConnectionResetError):
            self._ended_well()
            return False
        return True

    def _ended_well(self) -> bool:
        """Close ffmpeg's input and wait for its end."""
        self._stderr = self._process.communicate()[1]
        return not self._process.returncode

    def _replace(self, what: str) -> None:
        """Give all frames so far to another ffmpeg; raise the error of one that failed, or was killed too often."""
        while True:
            code = self._process.returncode
            if not was_killed(what, code, self._stderr) or self._starts == ATTEMPTS:
                self._path.unlink(missing_ok=True)
                raise ffmpeg_failure(what, code, self._stderr)
            self._process = self._start()
            if all(self._feed(frame) for frame in self._frames):
                return
