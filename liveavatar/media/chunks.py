"""Chunks of media files: the lists of named, sized pieces that WAV, W64, AIFF, CAF and MP4 are made of."""

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

GUID_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # behind the four letters of a chunk's name in a W64 file
W64_MAGIC = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")
UNKNOWN = 0x7FFF_0000  # bytes; sizes of 32 bits from here on are placeholders of writers that could not seek

_BLOCK = 1 << 20  # bytes searched at a time
_HEAD = 64  # bytes; no first bytes of a container are longer


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstBytes:
    """First bytes of a container."""

    pattern: bytes  # regular expression
    mark: bytes  # bytes of it that are searched for, which is faster
    at: int = 0  # position of the mark in it

    def match(self, data: bytes) -> bool:
        """Tell whether a file that begins with these bytes is of this kind."""
        return re.match(self.pattern, data, re.DOTALL) is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkLayout:
    """Form in which a container writes its chunks."""

    head: str  # struct of name and size
    first: int  # bytes before the first chunk
    align: int = 1  # bytes; a chunk begins at a multiple of it behind the first
    whole: bool = False  # the size counts the head, too
    size_first: bool = False  # the size is before the name


RIFF = ChunkLayout(head="<4sI", first=12, align=2)
AIFF = ChunkLayout(head=">4sI", first=12, align=2)
CAF = ChunkLayout(head=">4sQ", first=8)
W64 = ChunkLayout(head="<16sQ", first=40, align=8, whole=True)
MP4 = ChunkLayout(head=">I4s", first=0, whole=True, size_first=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """One piece of a file."""

    name: bytes
    at: int  # position of its head
    start: int  # of its content
    size: int  # bytes of content by its head; more than the file has where the head is wrong
    next: int  # position of the chunk behind it


def chunks(file: BinaryIO, layout: ChunkLayout, start: int, end: int) -> Iterator[Chunk]:
    """Iterate over the chunks between two positions of a file, as far as a head fits in."""
    at, length = start, struct.calcsize(layout.head)
    while at + length <= end:
        file.seek(at)
        values = struct.unpack(layout.head, file.read(length))
        size, name = values if layout.size_first else values[::-1]
        body = at + length
        if layout is MP4 and size == 1:  # 64 bits follow
            size, body = int.from_bytes(file.read(8)), body + 8
        elif layout is MP4 and size == 0:
            size = end - at
        if layout.whole:
            size -= body - at
        if size < 0:  # of a writer that could not seek; what is behind it is not known
            yield Chunk(name=name, at=at, start=body, size=0, next=end)
            return
        behind = body + size
        yield Chunk(name=name, at=at, start=body, size=size, next=behind + (start - behind) % layout.align)
        at = behind + (start - behind) % layout.align


def size_of(file: BinaryIO) -> int:
    """Return the size of an open file, bytes."""
    return file.seek(0, io.SEEK_END)


WAV_HEAD = FirstBytes(pattern=rb"(?:RIFF|RF64|BW64)....WAVE(?:fmt |ds64|JUNK|bext|LIST)", mark=b"WAVE", at=8)
W64_HEAD = FirstBytes(pattern=re.escape(W64_MAGIC), mark=W64_MAGIC)


def find_head(file: BinaryIO, heads: tuple[FirstBytes, ...], start: int) -> int | None:
    """Find where a container of one of these kinds begins, at or behind a position of a file."""
    file.seek(start)
    at, data = start, file.read(_BLOCK + _HEAD)
    while data:
        found = [place for head in heads if (place := _place(data, head)) is not None]
        if found:
            return at + min(found)
        more = file.read(_BLOCK)
        if not more:
            return None
        at, data = at + len(data) - _HEAD, data[-_HEAD:] + more
    return None


def _place(data: bytes, head: FirstBytes) -> int | None:
    place = data.find(head.mark, head.at) - head.at
    while place >= 0:
        if head.match(data[place : place + _HEAD]):
            return place
        place = data.find(head.mark, place + head.at + 1) - head.at
    return None
