"""Bytes of a file behind the sound that its header speaks of: further recordings, tags, and what nobody read.

Files are glued together, and lengths in headers are too small. FFmpeg stops where the header says; the positions of
its packets tell where that was. The other way round, it does not say what a file lacks at its end or its beginning.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from liveavatar.media.chunks import (
    AIFF,
    CAF,
    GUID_TAIL,
    MP4,
    RIFF,
    W64,
    W64_HEAD,
    WAV_HEAD,
    ChunkLayout,
    FirstBytes,
    chunks,
    find_head,
    size_of,
)

# containers whose packets end where their sound ends; others are read to the end of the file, whatever lies there
_EXACT: dict[str, ChunkLayout | None] = {
    "wav": RIFF,
    "w64": W64,
    "aiff": AIFF,
    "caf": CAF,
    "mov": MP4,
    "avi": RIFF,
    "tta": None,
    "voc": None,
}
_CAF_UNKNOWN = 2**62  # bytes; larger sizes are placeholders
_TAGS = re.compile(rb"APETAGEX|TAG.{125}\Z|ID3[\x02-\x04]|LYRICS(?:BEGIN|200)", re.DOTALL)
_HEAD = 64  # bytes looked at to tell what lies at a position
_BLOCK = 1 << 20  # bytes
_OGG, _OGG_HEAD = b"OggS", 27  # of a page; its head is so many bytes
_OGG_BEGIN = 2  # flag of the first page of a stream
_OGG_FRONT = 4 << 20  # bytes in which the first sound is looked for
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FACTS = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # the object with the size of the file
_ASF_FRONT = 1 << 16  # bytes in which it lies
_ASF_LIVE = 1  # flag: sizes are not known


# the first block of a recording: index 0, samples in it, and the flag of a group's first block
_WAVPACK = FirstBytes(
    pattern=rb"wvpk.{4}[\x02-\x10]\x04\0.{5}\0{4}(?!\0{4}).{4}.["
    + re.escape(bytes(b for b in range(256) if b & 8))
    + rb"]",
    mark=b"wvpk",
)
_HEADS = (
    FirstBytes(pattern=rb"OggS\0[\x02\x06]", mark=b"OggS\0"),
    WAV_HEAD,
    _WAVPACK,
    FirstBytes(pattern=rb"FORM....AIF[FC]", mark=b"AIF", at=8),
    FirstBytes(pattern=rb"caff\0[\x01\x02]..desc", mark=b"caff"),
    W64_HEAD,
    FirstBytes(pattern=rb"\0\0..ftyp[ -~]{4}", mark=b"ftyp", at=4),
    FirstBytes(pattern=rb"FLV\x01[\0-\x05]\0\0\0\t", mark=b"FLV\x01"),
    FirstBytes(pattern=rb"TTA1[\x01\x02]\0", mark=b"TTA1"),
    FirstBytes(pattern=rb"Creative Voice File\x1a", mark=b"Creative Voice File"),
    FirstBytes(pattern=re.escape(_ASF), mark=b"\x30\x26\xb2\x75"),  # ASF
    FirstBytes(pattern=re.escape(bytes.fromhex("b7d800203749da11a64e0007e95ead8d")), mark=b"\xb7\xd8\x00\x20"),  # WTV
)


def first_end(path: Path, start: int) -> int | None:
    """Find where an MP4, WavPack or Ogg recording must end that begins at a position of a file; None for other files.

    FFmpeg reads the fragments of two MP4s as one, takes tags behind WavPack for damaged blocks, and decodes a chain of
    Ogg recordings by the header of the first.
    """
    with path.open("rb") as file:
        file.seek(start)
        head = file.read(_HEAD)
        if _WAVPACK.match(head):
            return _wavpack_end(file, start)
        if head[:4] == _OGG:
            return _ogg_end(file, start)
        if not re.match(rb"....ftyp", head, re.DOTALL):
            return None
        return next((c.at for c in chunks(file, MP4, start, size_of(file)) if c.name == b"ftyp" and c.at > start), None)


def _wavpack_end(file: BinaryIO, start: int) -> int:
    """Find the end of the blocks of one recording."""
    at, end = start, size_of(file)
    while at < end:
        file.seek(at)
        head = file.read(_HEAD)
        if head[:4] != b"wvpk" or (at > start and _WAVPACK.match(head)):
            break
        at += 8 + int.from_bytes(head[4:8], "little")
    return min(at, end)


def _ogg_end(file: BinaryIO, start: int) -> int | None:
    """Find the recording in a chain whose headers differ from the first's (RFC 3533); None where there is none."""
    first: list[bytes] = []
    heads: list[bytes] = []
    begin, in_heads = start, True
    for at, begins, body in _ogg_pages(file, start):
        if begins and not in_heads:
            begin, heads = at, []
        if not begins and in_heads:
            first = first or heads
            if heads != first:
                return begin
        in_heads = begins
        heads += [body] if begins else []
    return None


def _ogg_pages(file: BinaryIO, at: int) -> Iterator[tuple[int, bool, bytes]]:
    """Iterate over the pages from a position on: position, whether a stream begins there, and the content if so."""
    while True:
        file.seek(at)
        head = file.read(_OGG_HEAD)
        if len(head) < _OGG_HEAD or head[:4] != _OGG:
            return
        size, begins = sum(file.read(head[26])), bool(head[5] & _OGG_BEGIN)
        yield at, begins, file.read(size) if begins else b""
        at += _OGG_HEAD + head[26] + size


def next_recording(path: Path, start: int, end: int) -> int | None:
    """Find a recording of the same container behind the one that begins and ends at two positions of a file."""
    with path.open("rb") as file:
        file.seek(start)
        first = file.read(_HEAD)
        head = next((h for h in _HEADS if h.match(first)), None)
        return None if head is None else find_head(file, (head,), max(start + 1, end))


def unread(path: Path, kinds: set[str], start: int, end: int) -> int:
    """Count the bytes behind the last packet that are neither chunks of the container nor tags nor padding.

    Args:
        path: file.
        kinds: names of its container.
        start: position of the recording in the file.
        end: position behind its last packet.

    Returns:
        Bytes; 0 for containers whose packets do not tell where the sound ends.
    """
    name = next((n for n in kinds if n in _EXACT), None)
    if name is None or end <= start:
        return 0
    with path.open("rb") as file:
        stop, layout = size_of(file), _EXACT[name]
        at = _chunk_end(path, start, end) if name == "mov" else end
        if layout is not None:
            at += (start - at) % layout.align
        while at < stop:
            file.seek(at)
            block = file.read(_BLOCK)
            padding = len(block) - len(block.lstrip(b"\0" if block[:1] == b"\0" else b"\xff"))
            chunk = next(chunks(file, layout, at, stop), None) if layout is not None else None
            if _TAGS.match(block):
                return 0
            if chunk is not None and _is_name(chunk.name) and chunk.start + chunk.size <= stop:
                at = chunk.next
            elif padding >= min(_HEAD, len(block)):
                at += padding
            else:
                return stop - at
    return 0


def announced_share(path: Path, start: int) -> float:
    """Return the bytes of sound that a CAF or SoX file announces over those it has, at least 1; 1 for other files."""
    with path.open("rb") as file:
        end = size_of(file)
        file.seek(start)
        head = file.read(16)
        if head[:4] == b".SoX":
            announced = 4 + int.from_bytes(head[4:8], "little") + 4 * int.from_bytes(head[8:16], "little")
            return max(1.0, announced / (end - start))
        if head[:4] != b"caff":
            return 1.0
        for chunk in chunks(file, CAF, start + CAF.first, end):
            if chunk.name == b"data" and chunk.size < _CAF_UNKNOWN and end > chunk.start:
                return max(1.0, chunk.size / (end - chunk.start))
    return 1.0


def asf_seconds(path: Path, start: int) -> float | None:
    """Read the length that an ASF file (WMA, WMV) announces; None where it says none, as one that was sent live."""
    with path.open("rb") as file:
        file.seek(start)
        head = file.read(_ASF_FRONT)
    at = head.find(_ASF_FACTS) if head.startswith(_ASF) else -1
    if at < 0 or len(head) < at + 92 or head[at + 88] & _ASF_LIVE:
        return None
    played, before = (int.from_bytes(head[at + place : at + place + 8], "little") for place in (64, 80))
    return max(0.0, played / 1e7 - before / 1e3) or None


def voc_cut(path: Path) -> str | None:
    """Tell how a VOC file shows that its end is missing; None when its end is there."""
    with path.open("rb") as file:
        end = size_of(file)
        file.seek(0)
        at = int.from_bytes(file.read(22)[20:], "little")
        while at < end:
            file.seek(at)
            head = file.read(4)
            if not head[0]:
                return None
            at += 4 + int.from_bytes(head[1:], "little")
    return "its last block is incomplete" if at > end else "it has no end mark"


def lacks_beginning(path: Path) -> bool:
    """Tell whether pages are missing or damaged between the headers of an Ogg file and its first sound."""
    with path.open("rb") as file:
        front = file.read(_OGG_FRONT)
    numbers: dict[bytes, int] = {}
    at = 0
    while front[at : at + 4] == _OGG:
        head = front[at : at + _OGG_HEAD]
        end = at + _OGG_HEAD + head[-1] + sum(front[at + _OGG_HEAD : at + _OGG_HEAD + head[-1]])
        stream, number = head[14:18], int.from_bytes(head[18:22], "little")
        page = front[at:end]
        if number != numbers.get(stream, -1) + 1 or _ogg_sum(page) != int.from_bytes(head[22:26], "little"):
            return bool(numbers) and end <= len(front)
        if any(head[6:14]):  # sound ends in it
            return False
        numbers[stream] = number
        at = end
    return bool(numbers) and at < len(front)


def _ogg_sum(page: bytes) -> int:
    """Compute the checksum of a page (RFC 3533): CRC-32 with the first bit first, its own bytes counted as zero."""
    crc = 0
    for byte in page[:22] + bytes(4) + page[26:]:
        crc = (crc << 8 ^ _OGG_TABLE[crc >> 24 ^ byte]) & 0xFFFF_FFFF
    return crc


def _ogg_table() -> list[int]:
    table = [byte << 24 for byte in range(256)]
    for _ in range(8):
        table = [(crc << 1 ^ (0x04C1_1DB7 if crc >> 31 else 0)) & 0xFFFF_FFFF for crc in table]
    return table


_OGG_TABLE = _ogg_table()


def is_encrypted(path: Path) -> bool:
    """Tell whether the sound of an MP4 is encrypted, as what shops and broadcasters protect."""
    with path.open("rb") as file:
        for chunk in chunks(file, MP4, 0, size_of(file)):
            if chunk.name == b"moov":
                file.seek(chunk.start)
                return (
                    re.search(rb"enca.{28}|drms.{28}", file.read(min(chunk.size, _BLOCK * 64)), re.DOTALL) is not None
                )
    return False


def _chunk_end(path: Path, start: int, position: int) -> int:
    with path.open("rb") as file:
        end = size_of(file)
        return next((min(c.next, end) for c in chunks(file, MP4, start, end) if c.next >= position), position)


def _is_name(name: bytes) -> bool:
    letters = name[:4] if name[4:] in (b"", GUID_TAIL) else b""
    return len(letters) == 4 and letters != b"mdat" and letters.isascii() and letters.decode().isprintable()
