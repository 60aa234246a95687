"""Videos that lack their end: the sizes in MP4, QuickTime, AVI and Matroska files against the bytes that are there.

Players read such a file as far as it goes, and say nothing.
"""

from pathlib import Path
from typing import BinaryIO

from liveavatar.media.chunks import MP4, RIFF, UNKNOWN, chunks, size_of

_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_EBML, _SEGMENT = bytes.fromhex("1a45dfa3"), bytes.fromhex("18538067")  # the two elements of a Matroska file
_SLACK = 256  # bytes; less is a writer that counts wrong


def missing_bytes(path: Path) -> int:
    """Count the bytes that a video lacks at its end, by the sizes that it gives itself; 0 for other kinds of file."""
    with path.open("rb") as file:
        size, head = size_of(file), _head(file)
        if head[4:8] in _FIRST_BOXES:
            end = max((box.next for box in chunks(file, MP4, 0, size) if box.name == b"mdat"), default=0)
        elif head[:4] == b"RIFF" and head[8:] == b"AVI ":
            end = max((part.next for part in chunks(file, RIFF, 0, size) if part.size < UNKNOWN), default=0)
        elif head[:4] == _EBML:
            end = _matroska_end(file)
        else:
            end = 0
    return end - size if end > size + _SLACK else 0


def _head(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(12)


def _matroska_end(file: BinaryIO) -> int:
    """Return the position at which a Matroska file ends; 0 where it does not say so, as one that was streamed."""
    file.seek(0)
    for name in (_EBML, _SEGMENT):
        if file.read(len(name)) != name:
            return 0
        size = _number(file)
        if size is None:
            return 0
        file.seek(size, 1)
    return file.tell()


def _number(file: BinaryIO) -> int | None:
    """Read a number of variable length (RFC 8794, section 4); None for the one that stands for unknown."""
    first = file.read(1)
    length = 9 - first[0].bit_length() if first and first[0] else 9
    if length > 8:
        return None
    value = int.from_bytes(first + file.read(length - 1)) - (1 << 7 * length)
    return None if value == (1 << 7 * length) - 1 else value
