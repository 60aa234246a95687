"""Headers of sound files compared with the bytes behind them: WAV lengths and byte rates, the end of an Ogg file.

Writers that cannot seek leave placeholders in a WAV header, others write the first part's length only, and files are
glued together. FFmpeg believes the header, so a mended view of the file is handed to it where the header is wrong.
"""

import io
import re
import string
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_PCM_TAGS = {1, 3, 6, 7, 0xFFFE}  # integer, float, A-law, mu-law, extensible: their byte rate follows from the rest
_UNKNOWN = 0x7FFF_0000  # bytes; sizes from here on are placeholders of writers that could not seek
_ROUND = (1 << 20, 1_000_000)  # a size that is a multiple of one of these, give or take a header, is a placeholder
_HEADER_ROOM = 64  # bytes between a data size and the size of the whole file
_LONGEST = 3 * 3600  # s; a longer announcement that the file does not hold is a placeholder
_STRAY_SECONDS = 0.1  # bytes behind the sound that would last less are padding
_GLUED = re.compile(rb"RIFF....WAVEfmt ", re.DOTALL)
_BLOCK = 1 << 20  # bytes searched at a time
_TEXT = bytes(string.printable, "ascii") + b"\0"
_OGG_PAGE = 27 + 255 + 255 * 255  # bytes, the largest there is
_OGG_END = 4  # flag of the last page of a stream


@dataclass(frozen=True, kw_only=True, slots=True)
class WavSound:
    """Sound bytes of a WAV file."""

    path: Path
    fmt: bytes  # content of the format chunk
    byte_rate: int  # bytes a second
    announced: int | None  # bytes of sound by the header; None where it holds a placeholder
    spans: tuple[range, ...]  # positions in the file that hold sound
    mended: bool  # FFmpeg must read `stream()`, not the file
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
        return io.BufferedReader(_Joined(self.path.open("rb"), header, self.spans))


def read_wav(path: Path) -> WavSound | None:
    """Find the sound of a WAV file; None for another kind of file, or one without format or sound."""
    with path.open("rb") as file:
        end = file.seek(0, io.SEEK_END)
        first = _part(file, 0, end)
        if first is None or len(first.fmt) < 16:
            return None
        tag, channels, rate, written_rate, block, bits = struct.unpack("<HHIIHH", first.fmt[:16])
        linear = tag in _PCM_TAGS
        whole = bits // 8 * channels if bits % 8 == 0 else block
        byte_rate = rate * whole if linear and whole else written_rate
        notes = []
        if byte_rate != written_rate:
            notes.append(f"its header gives a byte rate of {written_rate} where {byte_rate} is right; corrected")
        view = _View(file, end, byte_rate)
        spans, announced, more = view.sound(first) if linear and byte_rate else view.plain(first)
        mended = len(spans) > 1 or bool(first.size and announced is not None and len(spans[0]) > first.size)
        return WavSound(
            path=path, fmt=first.fmt, byte_rate=byte_rate, announced=announced, spans=spans, mended=mended,
            notes=(*notes, *more),
        )  # fmt: skip


def ogg_cut(path: Path) -> str | None:
    """Tell how an Ogg file shows that its end is missing; None when its end is there."""
    with path.open("rb") as file:
        end = file.seek(0, io.SEEK_END)
        file.seek(max(0, end - 2 * _OGG_PAGE))
        tail = file.read()
    at = tail.rfind(b"OggS")
    page = tail[at:] if at >= 0 else b""
    if len(page) < 27 or len(page) < 27 + page[26] or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        return "its last page is incomplete"
    return None if page[5] & _OGG_END else "it has no end mark"


def _total(spans: Iterable[range]) -> int:
    return sum(len(span) for span in spans)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """One WAV file, perhaps of several that lie behind one another."""

    fmt: bytes
    start: int  # of its sound
    size: int  # bytes of sound by its header


def _part(file: BinaryIO, start: int, end: int) -> _Part | None:
    file.seek(start)
    magic = file.read(12)
    if magic[:4] != b"RIFF" or magic[8:] != b"WAVE":
        return None
    fmt, at = b"", start + 12
    while at + 8 <= end:
        file.seek(at)
        name, size = struct.unpack("<4sI", file.read(8))
        if name == b"fmt ":
            fmt = file.read(min(size, _BLOCK))
        if name == b"data":
            return _Part(fmt=fmt, start=at + 8, size=size) if fmt else None
        at += 8 + size + size % 2
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
            if unknown and 0 < part.size < _UNKNOWN:
                notes.append(f"its header announces {part.size} bytes of sound, a placeholder; "
                             f"{self._seconds(stop - part.start)} are there and were read")  # fmt: skip
            part = None if following is None else _part(self.file, following, self.end)
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
        if size == 0 or size >= _UNKNOWN:
            return size != room
        near = any((size + _HEADER_ROOM) % unit <= _HEADER_ROOM for unit in _ROUND)
        return size > room and (near or size > _LONGEST * self.byte_rate)

    def _stop(self, part: _Part, notes: list[str], unknown: bool) -> tuple[int, int | None]:
        """Return where the sound of a part ends, and where the next part begins."""
        if unknown or part.start + part.size >= self.end:
            following = self._next_file(part.start)
            return (self.end if following is None else following), following
        at = part.start + part.size
        behind = self._behind_chunks(at + part.size % 2)
        if behind >= self.end:
            return at, None
        following = self._next_file(behind)
        if following == behind:
            return at, following
        stray = range(behind, self.end if following is None else following)
        if len(stray) < _STRAY_SECONDS * self.byte_rate:
            return at, following
        if behind > at + 1 or not self._is_sound(stray):
            notes.append(f"{len(stray)} bytes behind its sound are no sound and were not read")
            return at, following
        notes.append(f"its header announces {self._seconds(part.size)} of sound, "
                     f"{self._seconds(stray.stop - part.start)} are there and were read")  # fmt: skip
        return stray.stop, following

    def _behind_chunks(self, at: int) -> int:
        """Skip the chunks that may follow the sound: texts, cue points."""
        while at + 8 <= self.end:
            self.file.seek(at)
            name, size = struct.unpack("<4sI", self.file.read(8))
            if name == b"RIFF" or not name.isascii() or not name.decode().isprintable() or at + 8 + size > self.end:
                return at
            at += 8 + size + size % 2
        return self.end  # less than a chunk's header is padding

    def _next_file(self, start: int) -> int | None:
        at, tail = start, b""
        self.file.seek(start)
        while block := self.file.read(_BLOCK):
            if found := _GLUED.search(tail + block):
                return at - len(tail) + found.start()
            at += len(block)
            tail = (tail + block)[-15:]
        return None

    def _is_sound(self, span: range) -> bool:
        self.file.seek(span.start)
        sample = self.file.read(min(len(span), _BLOCK))
        return bool(sample.translate(None, _TEXT))

    def _seconds(self, num_bytes: int) -> str:
        return f"{num_bytes / self.byte_rate:.1f} s"


class _Joined(io.RawIOBase):
    """Read-only file: a header, then spans of another file."""

    def __init__(self, file: BinaryIO, header: bytes, spans: tuple[range, ...]) -> None:
        super().__init__()
        self._file, self._header, self._spans = file, header, spans
        self._size = len(header) + _total(spans)
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
        if self._at < len(self._header):
            return self._header[self._at : self._at + size]
        at = self._at - len(self._header)
        for span in self._spans:
            if at < len(span):
                self._file.seek(span.start + at)
                return self._file.read(min(size, len(span) - at))
            at -= len(span)
        return b""

    def close(self) -> None:
        """Close the file below."""
        self._file.close()
        super().close()
