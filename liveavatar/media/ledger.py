"""Sizes and digests of a growing video's segments, one line each: a damaged segment is noticed before it is resumed.

A line also holds the digest of itself, so that a changed number of frames is noticed, too.
"""

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from liveavatar.files import is_intact, open_regular, parse_json, read_bytes, signed

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoSegment:
    """One segment of a video on disk."""

    frames: int
    size: int  # bytes in the video
    sha256: str  # of these bytes
    live: str  # sha256 of its part of the live output; empty without


class SegmentLedger:
    """File of segments, appended in order."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, segment: VideoSegment) -> None:
        """Record one segment, whose bytes are on disk already."""
        with open_regular(self.path, "a") as file:
            file.write(json.dumps(signed({"segment": asdict(segment)})) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def truncate(self, num_segments: int) -> None:
        """Keep the first segments."""
        lines = read_bytes(self.path).splitlines(keepends=True) if self.path.exists() else []
        self.path.write_bytes(b"".join(lines[:num_segments]))

    def delete(self) -> None:
        """Forget all segments."""
        self.path.unlink(missing_ok=True)

    def whole(self, video: Path, live: list[str]) -> list[VideoSegment]:
        """Leading segments whose bytes in the video and in the live output match their digests.

        Args:
            video: the growing video.
            live: sha256 of each segment's part of the live output; empty without live output.
        """
        found: list[VideoSegment] = []
        if not (video.is_file() and self.path.is_file()):
            return found
        with video.open("rb") as file:
            for index, line in enumerate(read_bytes(self.path).splitlines()):
                try:
                    record = parse_json(line)
                    segment = VideoSegment(**record["segment"])
                    if not is_intact(record):
                        raise ValueError("the line was changed")
                    if not 0 < segment.size <= os.fstat(file.fileno()).st_size or segment.frames < 1:
                        raise ValueError("no segment has this size")
                    same = hashlib.sha256(file.read(segment.size)).hexdigest() == segment.sha256
                except (ValueError, TypeError, KeyError):
                    same = False
                if not same or (segment.live and live[index : index + 1] != [segment.live]):
                    log.warning("segment %d of the growing video is damaged", index)
                    break
                found.append(segment)
        return found
