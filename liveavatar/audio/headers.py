"""Headers of sound files compared with the bytes behind them: lengths and byte rates of WAV and W64, the end of Ogg.

Writers that cannot seek leave placeholders in a WAV header, others write the first part's length only, and files are
glued together. FFmpeg believes the header, so a mended view of the file is handed to it where the header is wrong.
"""

import io
import re
import string
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from liveavatar.media.chunks import (
    GUID_TAIL,
    RIFF,
    UNKNOWN,
    W64,
    W64_HEAD,
    W64_MAGIC,
    WAV_HEAD,
    ChunkLayout,
    chunks,
    find_head,
    size_of,
)

_PCM_TAGS = {1, 3, 6, 7, 0xFFFE}  # integer, float, A-law, mu-law, extensible: their byte rate follows from the rest
_INTEGER = b"\1\0\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"  # its name in the extensible format
_PADDED = (24, 4)  # bits of a sample and the bytes that hold it
_ROUND = (1 << 20, 1_000_000)  # a size that is a multiple of one of these, give or take a header, is a placeholder
_HEADER_ROOM = 64  # bytes between a data size and the size of the whole file
_LONGEST = 3 * 3600  # s; a longer announcement that the file does not hold is a placeholder
_STRAY_SECONDS = 0.1  # bytes behind the sound that would last less are padding
_OTHER = re.compile(
    rb"ID3[\x02-\x04]|OggS\0|fLaC\0|\x1aE\xdf\xa3|FORM....AIF|caff\0|....ftyp", re.DOTALL
)  # other containers
_BLOCK = 1 << 20  # bytes searched at a time
_TEXT = bytes(string.printable, "ascii") + b"\0"
_OGG_PAGE = 27 + 255 + 255 * 255  # bytes, the largest there is
_OGG_END = 4  # flag of the last page of a stream


@dataclass(frozen=True, kw_only=True, slots=True)
class WavSound:
    """Sound bytes of a WAV or W64 file."""

    path: Path
    fmt: bytes  # content of the format chunk
    byte_rate: int  # bytes a second
    announced: int | None  # bytes of sound by the header; None where it holds a placeholder
    spans: tuple[range, ...]  # positions in the file that hold sound
    mended: bool  # FFmpeg must read `stream()`, not the file
    linear: bool  # not compressed: `spans` hold all the sound there is
    notes: tuple[str, ...]  # lines for the user: what the header gets wrong and what was not read

    @property
    def seconds(self) -> float | None:
        """Announced duration."""
        return self.announced / self.byte_rate if self.announced and self.byte_rate else None

    def stream(self) -> BinaryIO:
        """Open the sound as one WAV file with a right header."""
        size = min(_total(self.spans), 0xFFFF_FFFF)
        chunk = b"fmt " + struct.pack("<I", len(self.fmt)) + self.fmt + b"\0" * (len(self.fmt) % 2)
        riff = struct.pack("<I", min(size + len(chunk) + 12, 0xFFFF_FFFF))
        header = b"RIFF" + riff + b"WAVE" + chunk + b"data" + struct.pack("<I", size)
        return view_of(self.path, (header, *self.spans))


def read_wav(path: Path, start: int = 0) -> WavSound | None:
    """Find the sound of a WAV or W64 file, RF64 and BW64 included.

    Args:
        path: file.
        start: position in it at which the WAV file begins.

    Returns:
        None for another kind of file, or one without format or sound.
    """
    with path.open("rb") as file:
        end = size_of(file)
        first = _part(file, start, end)
        if first is None or len(first.fmt) < 16:
            return None
        tag, channels, rate, written_rate, block, bits = struct.unpack("<HHIIHH", first.fmt[:16])
        linear = tag in _PCM_TAGS
        padding = _padding(file, first, end)
        padded = (bits, block) == (_PADDED[0], _PADDED[1] * channels)  # also of floating point
        whole = block if bits % 8 or padded else bits // 8 * channels
        byte_rate = rate * whole if linear and whole else written_rate
        notes = []
        if byte_rate != written_rate:
            notes.append(f"its header gives a byte rate of {written_rate} where {byte_rate} is right; corrected")
        view = _View(file, end, byte_rate)
        spans, announced, more = view.sound(first) if linear and byte_rate else view.plain(first)
        # FFmpeg knows the placeholders of 32 bits alone
        wrong = first.wide if announced is None else len(spans[0]) > first.size > 0
        mended = len(spans) > 1 or wrong or padding is not None
        fmt = first.fmt
        if padding is not None:  # FFmpeg would take the samples for floating point
            fmt = struct.pack("<HHIIHH", 1, channels, rate, rate * block, block, 8 * _PADDED[1])
            spans = tuple(range(span.start - padding, span.stop - padding) for span in spans)
        return WavSound(
            path=path, fmt=fmt, byte_rate=byte_rate, announced=announced, spans=spans, mended=mended,
            linear=linear and byte_rate > 0, notes=(*notes, *more),
        )  # fmt: skip


def _padding(file: BinaryIO, part: "_Part", end: int) -> int | None:
    """Find samples of 24 bits in 32; None for others, and for floating point that is announced as if it were such.

    Returns:
        Bytes by which a sample of 32 bits begins before its 24: 0 where the padding is in front of them, 1 where it
        is behind them and the sign's; the byte in front, of the sample before, is too small to be heard.
    """
    tag, channels, _, _, block, bits = struct.unpack("<HHIIHH", part.fmt[:16])
    if tag == 0xFFFE and part.fmt[24:40] == _INTEGER:
        bits = int.from_bytes(part.fmt[18:20], "little")
    elif tag != 1:
        return None
    if (bits, block) != (_PADDED[0], _PADDED[1] * channels):
        return None
    file.seek(part.start)
    sample = file.read(min(part.size, end - part.start, _BLOCK) // 4 * 4)
    low, high, signs = sample[::4], sample[2::4], sample[3::4]
    if not any(low):
        return 0
    return 1 if signs == bytes(0xFF if byte & 0x80 else 0 for byte in high) else None


def view_of(path: Path, parts: tuple[bytes | range, ...]) -> BinaryIO:
    """Open spans of a file, and other bytes between them, as a file of their own."""
    return io.BufferedReader(_Joined(path.open("rb"), parts))


def patched(path: Path, span: range, right: Mapping[int, bytes]) -> BinaryIO:
    """Open a span of a file, in which other bytes stand at some positions of the file."""
    parts: list[bytes | range] = []
    at = span.start
    for place, content in sorted(right.items()):
        parts += [range(at, place), content]
        at = place + len(content)
    return view_of(path, (*parts, range(at, span.stop)))


def ogg_cut(path: Path) -> str | None:
    """Tell how an Ogg file shows that its end is missing; None when its end is there."""
    with path.open("rb") as file:
        end = size_of(file)
        file.seek(max(0, end - 2 * _OGG_PAGE))
        tail = file.read()
    at = tail.rfind(b"OggS")
    page = tail[at:] if at >= 0 else b""
    if len(page) < 27 or len(page) < 27 + page[26] or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        return "its last page is incomplete"
    return None if page[5] & _OGG_END else "it has no end mark"


def _total(parts: Iterable[bytes | range]) -> int:
    return sum(len(part) for part in parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """One WAV file, perhaps of several that lie behind one another."""

    fmt: bytes
    start: int  # of its sound
    size: int  # bytes of sound by its header
    wide: bool  # its sizes have 64 bits
    layout: ChunkLayout


def _part(file: BinaryIO, start: int, end: int, fmt: bytes = b"") -> _Part | None:
    """Read the header of a WAV file, or of more sound in a format that is known."""
    file.seek(start)
    magic = file.read(16)
    if magic == W64_MAGIC:
        layout, at = W64, start + W64.first
    elif magic[:4] in (b"RIFF", b"RF64", b"BW64") and magic[8:12] == b"WAVE":
        layout, at = RIFF, start + RIFF.first
    elif fmt and magic[:4] == b"data":
        layout, at = RIFF, start
    else:
        return None
    wide_size = None
    for chunk in chunks(file, layout, at, end):
        file.seek(chunk.start)
        match chunk.name.removesuffix(GUID_TAIL):
            case b"fmt ":
                fmt = file.read(min(chunk.size, _BLOCK))
            case b"ds64" if chunk.size >= 16:
                wide_size = int.from_bytes(file.read(16)[8:], "little")
            case b"data":
                size = wide_size if chunk.size == 0xFFFF_FFFF and wide_size is not None else chunk.size
                wide = layout is W64 or wide_size is not None
                return _Part(fmt=fmt, start=chunk.start, size=size, wide=wide, layout=layout) if fmt else None
    return None


@dataclass(frozen=True, slots=True)
class _View:
    """An open WAV file: `end` is its size in bytes."""

    file: BinaryIO
    end: int
    byte_rate: int

    def plain(self, part: _Part) -> tuple[tuple[range, ...], int | None, list[str]]:
        """Believe the header of compressed sound, unless it is a placeholder."""
        room = self.end - part.start
        announced = None if self._placeholder(part.size, room) else part.size
        return (range(part.start, part.start + min(part.size, room)),), announced, []

    def sound(self, first: _Part) -> tuple[tuple[range, ...], int | None, list[str]]:
        """Find the spans of linear sound, the bytes announced for them, and the lines for the user."""
        spans: list[range] = []
        notes: list[str] = []
        total: int | None = 0
        part: _Part | None = first
        joined = 0
        while part is not None:
            unknown = self._placeholder(part.size, self.end - part.start)
            stop, following = self._stop(part, notes, unknown)
            spans.append(range(part.start, stop))
            total = None if unknown or total is None else total + max(part.size, stop - part.start)
            if unknown and 0 < part.size < UNKNOWN:
                notes.append(f"its header announces {part.size} bytes of sound, a placeholder; "
                             f"{self._seconds(stop - part.start)} are there and were read")  # fmt: skip
            part = None if following is None else _part(self.file, following, self.end, first.fmt)
            if part is not None and part.fmt != first.fmt:
                notes.append(f"a recording in another format lies behind the first {self._seconds(_total(spans))}; "
                             f"it was not read, {self.end - part.start} bytes")  # fmt: skip
                part = None
            joined += part is not None
        if joined:
            notes.append(f"{joined + 1} WAV files are glued together in it; all {self._seconds(_total(spans))} "
                         "were read")  # fmt: skip
        return tuple(spans), total, notes

    def _placeholder(self, size: int, room: int) -> bool:
        if size == 0 or size >= UNKNOWN:
            return size != room
        near = any((size + _HEADER_ROOM) % unit <= _HEADER_ROOM for unit in _ROUND)
        return size > room and (near or size > _LONGEST * self.byte_rate)

    def _stop(self, part: _Part, notes: list[str], unknown: bool) -> tuple[int, int | None]:
        """Return where the sound of a part ends, and where the next part begins."""
        if unknown or part.start + part.size >= self.end:
            following = self._next_file(part.start)
            return (self.end if following is None else following), following
        at = part.start + part.size
        behind = self._behind_chunks(part, at + (part.start - at) % part.layout.align)
        if behind >= self.end:
            return at, None
        self.file.seek(behind)
        following = behind if self.file.read(4) == b"data" else self._next_file(behind)
        if following == behind:
            return at, following
        stray = range(behind, self.end if following is None else following)
        if len(stray) < _STRAY_SECONDS * self.byte_rate:
            return at, following
        if behind >= at + part.layout.align or not self._is_sound(stray):
            notes.append(f"{len(stray)} bytes behind its sound are no sound and were not read")
            return at, following
        notes.append(f"its header announces {self._seconds(part.size)} of sound, "
                     f"{self._seconds(stray.stop - part.start)} are there and were read")  # fmt: skip
        return stray.stop, following

    def _behind_chunks(self, part: _Part, at: int) -> int:
        """Skip the chunks that may follow the sound: texts, cue points; more sound is none of them."""
        for chunk in chunks(self.file, part.layout, at, self.end):
            name = chunk.name.removesuffix(GUID_TAIL)
            is_file = chunk.name == W64_MAGIC or name in (b"RIFF", b"RF64", b"BW64")
            is_chunk = name.isascii() and name.decode().isprintable() and chunk.start + chunk.size <= self.end
            if is_file or name == b"data" or not is_chunk:
                return chunk.at
            at = chunk.next
        return self.end  # less than a chunk's header is padding

    def _next_file(self, start: int) -> int | None:
        return find_head(self.file, (WAV_HEAD, W64_HEAD), start)

    def _is_sound(self, span: range) -> bool:
        self.file.seek(span.start)
        sample = self.file.read(min(len(span), _BLOCK))
        return not _OTHER.match(sample) and bool(sample.translate(None, _TEXT))

    def _seconds(self, num_bytes: int) -> str:
        return f"{num_bytes / self.byte_rate:.1f} s"


class _Joined(io.RawIOBase):
    """Read-only file: spans of another file, and other bytes between them."""

    def __init__(self, file: BinaryIO, parts: tuple[bytes | range, ...]) -> None:
        super().__init__()
        self._file, self._parts = file, parts
        self._size = _total(parts)
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read up to a buffer's size; fewer bytes at the end of a span."""
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _read(self, size: int) -> bytes:
        at = self._at
        for part in self._parts:
            if at < len(part):
                if isinstance(part, bytes):
                    return part[at : at + size]
                self._file.seek(part.start + at)
                return self._file.read(min(size, len(part) - at))
            at -= len(part)
        return b""

    def close(self) -> None:
        """Close the file below."""
        self._file.close()
        super().close()
