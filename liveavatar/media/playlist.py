"""Playlists: text files that name other files, which no reader of ours opens."""

import re
from pathlib import Path

from liveavatar.errors import InputError

_HEAD = 256  # bytes looked at
_FIRST = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:#EXTM3U|ffconcat version|\[playlist\]|<asx"
    rb"|(?:<\?(?:xml|wpl)[^>]*>\s*)?<(?:MPD|smil|playlist))",
    re.IGNORECASE,
)  # HLS, FFmpeg's concat, PLS, ASX, DASH, WPL, XSPF


def refuse_playlist(path: Path) -> None:
    """Refuse a file whose first bytes are those of a playlist.

    Raises:
        InputError: it is one.
    """
    with path.open("rb") as file:
        if _FIRST.match(file.read(_HEAD)):
            raise InputError(f"{path}: it is a playlist, which names other files; give one of them")
