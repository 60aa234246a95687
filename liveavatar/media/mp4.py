"""MP4 boxes of fragmented files: split a file, count its pictures, shift it in time.

An mp4 is a sequence of *boxes* (32-bit length, four-letter type, payload). A fragmented file is a *header* (`ftyp`,
`moov`) followed by *fragments* (`moof` with the times, `mdat` with the bytes). ISO/IEC 14496-12, sections 4.2 and
8.8. Encoders start every file at time 0; to join files made one by one, the start time in each fragment's `tfdt`
and its running number in `mfhd` are rewritten here.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

from liveavatar.errors import InputError
from liveavatar.files import open_regular
from liveavatar.media.chunks import MP4, Chunk, chunks, size_of


@dataclass(frozen=True, slots=True)
class Fragment:
    """One whole `moof` + `mdat` of a file."""

    start: int  # bytes
    end: int  # bytes, exclusive
    num_frames: int  # samples of the first track


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Chunk]:
    """Iterate over the boxes between two offsets; stops before one that is not whole."""
    return _whole(io.BytesIO(data), start, len(data) if end is None else end)


def _whole(file: BinaryIO, start: int, end: int) -> Iterator[Chunk]:
    return takewhile(
        lambda box: any(box.name) and box.start + box.size == box.next <= end, chunks(file, MP4, start, end)
    )


def find(data: bytes, path: tuple[bytes, ...], start: int = 0, end: int | None = None) -> Iterator[Chunk]:
    """Find boxes by a path of types, such as (b"moof", b"traf", b"tfdt")."""
    for box in boxes(data, start, end):
        if box.name != path[0]:
            continue
        if len(path) == 1:
            yield box
        else:
            yield from find(data, path[1:], box.start, box.next)


def split(data: bytes) -> tuple[bytes, bytes]:
    """Split a fragmented mp4 into header and fragments; data after the last fragment is dropped.

    Raises:
        ValueError: when there is no fragment.
    """
    top = list(boxes(data))
    kinds = [box.name for box in top]
    if b"moof" not in kinds or kinds[-1] not in (b"mdat", b"mfra"):
        raise ValueError(f"no fragmented mp4: it has the boxes {kinds}")
    first = top[kinds.index(b"moof")].at
    last = max(box.next for box in top if box.name == b"mdat")
    return data[:first], data[first:last]


def moved(fragments: bytes, starts: dict[int, int], sequence: int) -> bytes:
    """Shift fragments that start at time 0 to another time.

    Args:
        fragments: `moof` + `mdat` pairs.
        starts: track number -> ticks to add.
        sequence: running number of the first fragment, from 1.

    Returns:
        A copy with `tfdt` and `mfhd` rewritten.
    """
    data = bytearray(fragments)
    for number, moof in enumerate(b for b in boxes(fragments) if b.name == b"moof"):
        inside = (moof.start, moof.next)
        for box in find(fragments, (b"mfhd",), *inside):
            struct.pack_into(">I", data, box.start + 4, sequence + number)
        for traf in find(fragments, (b"traf",), *inside):
            part = (traf.start, traf.next)
            (track,) = struct.unpack_from(">I", fragments, next(find(fragments, (b"tfhd",), *part)).start + 4)
            _add_time(data, next(find(fragments, (b"tfdt",), *part)), starts[track])
    return bytes(data)


def _add_time(data: bytearray, box: Chunk, ticks: int) -> None:
    assert data[box.start] == 1, "tfdt version 1 holds 64 bits; version 0 would overflow after some hours"
    (time,) = struct.unpack_from(">Q", data, box.start + 4)
    struct.pack_into(">Q", data, box.start + 4, time + ticks)


def scan(path: Path) -> tuple[int, list[Fragment]]:
    """Read the header's length and the whole fragments of a growing file; a truncated tail is left out.

    Only heads of boxes and `moof` boxes are read, so a long video costs little.

    Raises:
        InputError: when the file does not begin like a fragmented mp4.
    """
    header, fragments, moof = 0, [], None
    with open_regular(path) as file:
        for box in _whole(file, 0, size_of(file)):
            if box.name in (b"ftyp", b"moov"):
                header = box.next
            elif box.name == b"moof":
                file.seek(box.at)
                moof = (box.at, _count(file.read(box.next - box.at)))
            elif box.name == b"mdat" and moof is not None:
                fragments.append(Fragment(moof[0], box.next, moof[1]))
                moof = None
    if not header:
        raise InputError(f"{path} is no growing video of ours; delete it and render again without --resume")
    return header, fragments


def last_fragment(path: Path) -> bytes:
    """Read header and last whole fragment of a growing file: a video of only that stretch.

    Raises:
        InputError: when the file does not begin like a fragmented mp4.
    """
    header, fragments = scan(path)
    with open_regular(path) as file:
        data = file.read(header)
        file.seek(fragments[-1].start)
        return data + file.read(fragments[-1].end - fragments[-1].start)


def _count(moof: bytes) -> int:
    run = next(find(moof, (b"moof", b"traf", b"trun")), None)
    return 0 if run is None else int(struct.unpack_from(">I", moof, run.start + 4)[0])
