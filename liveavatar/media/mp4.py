"""MP4 boxes of fragmented files: split a file, count its pictures, shift it in time.

An mp4 is a sequence of *boxes* (32-bit length, four-letter type, payload). A fragmented file is a *header* (`ftyp`,
`moov`) followed by *fragments* (`moof` with the times, `mdat` with the bytes). ISO/IEC 14496-12, sections 4.2 and
8.8. Encoders start every file at time 0; to join files made one by one, the start time in each fragment's `tfdt`
and its running number in `mfhd` are rewritten here.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from liveavatar.errors import InputError

_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_SLACK = 256  # bytes; less is a writer that counts wrong


@dataclass(frozen=True, slots=True)
class Box:
    """One box: type, offset, and size including its 8-byte head."""

    kind: str
    start: int  # bytes
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Fragment:
    """One whole `moof` + `mdat` of a file."""

    start: int  # bytes
    end: int  # bytes, exclusive
    num_frames: int  # samples of the first track


def boxes(data: bytes | memoryview, start: int = 0, end: int | None = None) -> Iterator[Box]:
    """Iterate over the boxes between two offsets; stops before a truncated one."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        if size < 8 or start + size > end:
            return
        yield Box(kind.decode("latin-1"), start, size)
        start += size


def find(data: bytes | memoryview, path: tuple[str, ...], start: int = 0, end: int | None = None) -> Iterator[Box]:
    """Find boxes by a path of types, such as ("moof", "traf", "tfdt")."""
    for box in boxes(data, start, end):
        if box.kind != path[0]:
            continue
        if len(path) == 1:
            yield box
        else:
            yield from find(data, path[1:], box.start + 8, box.start + box.size)


def split(data: bytes) -> tuple[bytes, bytes]:
    """Split a fragmented mp4 into header and fragments; data after the last fragment is dropped.

    Raises:
        ValueError: when there is no fragment.
    """
    top = list(boxes(data))
    kinds = [box.kind for box in top]
    if "moof" not in kinds or kinds[-1] not in ("mdat", "mfra"):
        raise ValueError(f"no fragmented mp4: it has the boxes {kinds}")
    first = top[kinds.index("moof")].start
    last = max(box.start + box.size for box in top if box.kind == "mdat")
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
    for number, moof in enumerate(b for b in boxes(fragments) if b.kind == "moof"):
        inside = (moof.start + 8, moof.start + moof.size)
        for box in find(fragments, ("mfhd",), *inside):
            struct.pack_into(">I", data, box.start + 12, sequence + number)
        for traf in find(fragments, ("traf",), *inside):
            part = (traf.start + 8, traf.start + traf.size)
            (track,) = struct.unpack_from(">I", fragments, next(find(fragments, ("tfhd",), *part)).start + 12)
            _add_time(data, next(find(fragments, ("tfdt",), *part)), starts[track])
    return bytes(data)


def _add_time(data: bytearray, box: Box, ticks: int) -> None:
    assert data[box.start + 8] == 1, "tfdt version 1 holds 64 bits; version 0 would overflow after some hours"
    (time,) = struct.unpack_from(">Q", data, box.start + 12)
    struct.pack_into(">Q", data, box.start + 12, time + ticks)


def scan(path: Path) -> tuple[int, list[Fragment]]:
    """Read the header's length and the whole fragments of a growing file; a truncated tail is left out.

    Only heads of boxes and `moof` boxes are read, so a long video costs little.

    Raises:
        InputError: when the file does not begin like a fragmented mp4.
    """
    header, fragments, moof = 0, [], None
    size = path.stat().st_size
    with path.open("rb") as file:
        start = 0
        while start + 8 <= size:
            file.seek(start)
            length, kind = struct.unpack(">I4s", file.read(8))
            if length < 8 or start + length > size:
                break
            if kind in (b"ftyp", b"moov"):
                header = start + length
            elif kind == b"moof":
                file.seek(start)
                moof = (start, _count(file.read(length)))
            elif kind == b"mdat" and moof is not None:
                fragments.append(Fragment(moof[0], start + length, moof[1]))
                moof = None
            start += length
    if not header:
        raise InputError(f"{path} is no growing video of ours; delete it and render again without --resume")
    return header, fragments


def missing_bytes(path: Path) -> int:
    """Count the bytes that an MP4 or QuickTime file lacks at its end, by the size of the box with pictures and sound.

    Players read such a file as far as it goes, and say nothing. 0 for other files.
    """
    start, size = 0, path.stat().st_size
    with path.open("rb") as file:
        while start + 8 <= size:
            file.seek(start)
            length, kind = struct.unpack(">I4s", file.read(8))
            if start == 0 and kind not in _FIRST_BOXES:
                break
            if length == 1:  # 64 bits follow
                length = int.from_bytes(file.read(8))
            if kind == b"mdat" and start + length > size + _SLACK:
                return start + length - size
            if length < 8:  # damaged, or up to the end of the file
                break
            start += length
    return 0


def last_fragment(path: Path) -> bytes:
    """Read header and last whole fragment of a growing file: a video of only that stretch.

    Raises:
        InputError: when the file does not begin like a fragmented mp4.
    """
    header, fragments = scan(path)
    with path.open("rb") as file:
        data = file.read(header)
        file.seek(fragments[-1].start)
        return data + file.read(fragments[-1].end - fragments[-1].start)


def _count(moof: bytes) -> int:
    run = next(find(moof, ("moof", "traf", "trun")), None)
    return 0 if run is None else int(struct.unpack_from(">I", moof, run.start + 12)[0])
