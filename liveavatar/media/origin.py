"""The mark in a video's metadata that names the render it comes from: a sha256 over everything that it depends on.

The digest is known before the first frame, so that an interrupted video becomes the same bytes. Copies, and most
programs that encode a video anew, keep the mark.
"""

import re
from pathlib import Path

from liveavatar.media.ffmpeg import read_metadata

_MARK = re.compile(r"\bliveavatar render ([0-9a-f]{64})\b")


def origin_mark(digest: str) -> str:
    """Make the mark of a render."""
    return f"liveavatar render {digest}"


def read_origin(path: Path) -> str | None:
    """Read the digest of the render that a video comes from; None where it has no mark.

    Raises:
        InputError: it is no media file.
    """
    found = (_MARK.search(text) for text in read_metadata(path).values())
    return next((match[1] for match in found if match), None)
