"""Sizes in the headers of AIFF, CAF and MP4 files behind which FFmpeg finds no sound, put right.

Writers into a pipe leave placeholders, and sizes get damaged. What FFmpeg needs lies behind the sound then, and it
looks for it in a wrong place. This module is asked once FFmpeg has given up on a file.
"""

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from liveavatar.media.chunks import AIFF, CAF, MP4, UNKNOWN, Chunk, ChunkLayout, FirstBytes, chunks, find_head
from liveavatar.media.chunks import size_of as file_size

_UNKNOWN_64 = 2**62  # bytes; larger sizes of 64 bits are placeholders
_HEAD = 16  # bytes that tell the kind


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """A container that keeps its sound in one chunk, and what it says about it in another, which may lie behind."""

    first: bytes  # regular expression of its first bytes
    layout: ChunkLayout
    sound: bytes  # name of the chunk
    index: FirstBytes  # of the other chunk
    index_is: str  # the other chunk in words
    form: str = ""  # struct of the size of the whole file, at its fifth byte; empty where it has none


_KINDS = (
    _Kind(
        first=rb"FORM....AIF[FC]",
        layout=AIFF,
        sound=b"SSND",
        index=FirstBytes(pattern=rb"COMM\0\0\0[\x12-\x7f]", mark=b"COMM"),
        index_is="its format (the chunk COMM)",
        form=">I",
    ),
    _Kind(
        first=rb"caff\0[\x01\x02]",
        layout=CAF,
        sound=b"data",
        index=FirstBytes(pattern=rb"pakt\0{4}.{4}\0{4}", mark=b"pakt"),
        index_is="the table of its packets (the chunk pakt)",
    ),
    _Kind(
        first=rb"....ftyp",
        layout=MP4,
        sound=b"mdat",
        index=FirstBytes(pattern=rb"....moov....(?:mvhd|iods|trak|udta|cmov)", mark=b"moov", at=4),
        index_is="its index (the box moov)",
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeaderSizes:
    """Faults that keep a file from being read, and the right bytes."""

    right: dict[int, bytes]  # right bytes by their positions in the file
    notes: tuple[str, ...]  # lines for the user
    lacking: str | None  # what the file does not have


def wrong_sizes(path: Path, start: int = 0) -> HeaderSizes | None:
    """Find the sizes in a file that hide its sound; None where there are none, and for other kinds of file.

    Args:
        path: file.
        start: position in it at which the recording begins.
    """
    with path.open("rb") as file:
        end = file_size(file)
        file.seek(start)
        head = file.read(_HEAD)
        kind = next((k for k in _KINDS if re.match(k.first, head, re.DOTALL)), None)
        if kind is None:
            return None
        right: dict[int, bytes] = {}
        notes: list[str] = []
        if kind.form and (whole := struct.pack(kind.form, min(end - start - 8, 0xFFFF_FFFF))) != head[4:8]:
            right[start + 4] = whole
        at, names, length = start + kind.layout.first, set[bytes](), 0
        while (chunk := next(chunks(file, kind.layout, at, end), None)) is not None:
            at = chunk.next
            names.add(chunk.name)
            if chunk.name != kind.sound:
                continue
            stop = _true_end(file, kind, chunk, end, seen=kind.index.mark in names)
            length += stop - chunk.start
            if stop != chunk.start + chunk.size:
                right |= _sized(kind.layout, chunk, stop - chunk.start)
                notes += _notes(chunk, stop - chunk.start, end)
                at = stop + (chunk.start - stop) % kind.layout.align
        missing = kind.index.mark not in names and length > 0 and not _has_even_packets(file, kind, start)
        if not right and not missing:
            return None
        return HeaderSizes(right=right, notes=tuple(notes), lacking=kind.index_is if missing else None)


def is_endless_avi(path: Path, start: int = 0) -> bool:
    """Tell if a file is an AVI that was written into a pipe, whose header says nothing of its length."""
    with path.open("rb") as file:
        file.seek(start)
        return re.match(rb"RIFF(?:\0{4}|\xff{4})AVI ", file.read(_HEAD)) is not None


def _true_end(file: BinaryIO, kind: _Kind, chunk: Chunk, end: int, *, seen: bool) -> int:
    """Find where the sound ends: where its size says if that is the end or a chunk follows, else before the index."""
    following = next(chunks(file, kind.layout, chunk.next, end), None)
    if following is not None and _is_plausible(following, end):
        return chunk.start + chunk.size
    behind = None if seen else find_head(file, (kind.index,), chunk.start)
    return end if behind is None else behind


def _is_plausible(chunk: Chunk, end: int) -> bool:
    return chunk.name.isascii() and chunk.name.decode().isprintable() and chunk.start + chunk.size <= end


def _sized(layout: ChunkLayout, chunk: Chunk, size: int) -> dict[int, bytes]:
    """Return the bytes of a chunk's size by their position."""
    head = chunk.start - chunk.at  # bytes; 16 in an MP4 whose size has 64 bits
    if layout is MP4 and head > struct.calcsize(layout.head):
        return {chunk.at + 8: struct.pack(">Q", size + head)}
    if layout is MP4:
        return {chunk.at: struct.pack(">I", size + head if size + head < 2**32 else 0)}
    form = layout.head[0] + layout.head[-1]
    return {chunk.at + 4: struct.pack(form, min(size, 256 ** struct.calcsize(form) - 1))}


def _notes(chunk: Chunk, size: int, end: int) -> list[str]:
    placeholder = _UNKNOWN_64 if chunk.start - chunk.at > 8 else UNKNOWN
    if not 0 < chunk.size < placeholder or chunk.start + chunk.size == end:  # "to the end" in an MP4
        return []
    return [f"its header gives its sound {chunk.size} bytes where {size} are right; corrected"]


def _has_even_packets(file: BinaryIO, kind: _Kind, start: int) -> bool:
    """Tell if a CAF file has packets of one size, which need no table."""
    if kind.layout is not CAF:
        return False
    file.seek(start + CAF.first + struct.calcsize(CAF.head))
    description = file.read(24)  # rate, format, flags, bytes and frames of a packet
    return len(description) == 24 and all(struct.unpack(">II", description[16:]))
