"""Seeded mutations of a file's bytes: flipped bits, cuts, splices, lengths, huge numbers, repeated pieces."""

import random
import re
import struct
import zlib
from collections.abc import Callable

from tests.fuzz.seeds import PNG

LENGTHS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x00FF_FFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF)
NUMBERS = (
    *(b"0", b"-1", b"1e999", b"-1e308", b"NaN", b"Infinity", b"1.5", b"99999999999999999999", b"2147483648", b"null"),
    *(b"true", b'"a"', b"[]", b"{}", b"4" * 5000),
)
WORDS = (
    *(b'"', b"'", b",", b";", b"\t", b"\n", b"\r", b"\0", b"\xef\xbb\xbf", b"\xff", b"\xe9", b"\\ud800", b"\x1b[2J"),
    *(b"<script>alert(1)</script>", b"../../etc/passwd", b"$(touch x)", b"[" * 3000, b'{"a":' * 3000, b"%s%n{0}"),
    *(b"A" * 5000, "\u202e".encode(), "\U0001f600".encode(), b"\r\n\r\n", b"file:///etc/passwd", b"__import__('os')"),
)
MAX_BYTES = 2_000_000  # of a mutated file
_NUMBER = re.compile(rb"-?\d+(\.\d+)?")

Mutation = Callable[[bytearray, random.Random, bytes], bytearray]


def mutate(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Change the bytes of a file in one to four ways.

    Args:
        data: a valid file.
        other: another valid file, for splices.
        rng: decides everything.
    """
    ways = TEXT_WAYS if _is_text(data) else BINARY_WAYS
    changed = bytearray(data)
    for way in rng.choices(ways, k=rng.choice((1, 1, 2, 4))):
        if changed:
            changed = way(changed, rng, other)[:MAX_BYTES]
    if changed.startswith(PNG) and rng.random() < 0.7:
        changed = bytearray(_with_right_checksums(bytes(changed)))
    return bytes(changed)


def _is_text(data: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\n\r" for byte in data[:1000])


def _flip(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    for _ in range(rng.choice((1, 3, 20))):
        data[_place(data, rng)] ^= 1 << rng.randrange(8)
    return data


def _overwrite(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    at = _place(data, rng)
    data[at : at + rng.choice((1, 4, 64))] = rng.choice((b"\0", b"\xff", b"\x7f", rng.randbytes(8))) * 4
    return data


def _cut(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    return data[: rng.choice((rng.randrange(len(data) + 1), rng.randrange(1 + min(64, len(data)))))]


def _remove(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    at = _place(data, rng)
    del data[at : at + rng.choice((1, 2, 7, 100, 3000))]
    return data


def _insert(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    at = _place(data, rng)
    data[at:at] = rng.randbytes(rng.choice((1, 4, 100, 5000)))
    return data


def _splice(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    start = rng.randrange(len(other)) if other else 0
    piece = other[start : start + rng.choice((8, 200, 5000, len(other)))]
    at = _place(data, rng)
    data[at : at + rng.choice((0, len(piece)))] = piece
    return data


def _repeat(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    at = _place(data, rng)
    piece = bytes(data[at : at + rng.choice((1, 8, 40, 1000, len(data)))])
    data[at:at] = piece * rng.choice((1, 2, 30, 1000))
    return data


def _length(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    """Write an extreme 16-, 32- or 64-bit number over one; most are lengths or counts in the first bytes."""
    value, size = rng.choice(LENGTHS), rng.choice((2, 4, 4, 4, 8))
    packed = struct.pack(rng.choice("<>") + "Q", value)
    packed = packed[:size] if packed[0] or not value else packed[-size:]
    at = _place(data, rng)
    data[at : at + size] = packed
    return data


def _number(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    """Replace a number in a text by an extreme one."""
    found = list(_NUMBER.finditer(data))
    if not found:
        return _word(data, rng, other)
    start, end = rng.choice(found).span()
    data[start:end] = rng.choice(NUMBERS)
    return data


def _word(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    at = _place(data, rng)
    data[at : at + rng.choice((0, 1, 5))] = rng.choice(WORDS)
    return data


def _place(data: bytearray, rng: random.Random) -> int:
    """Choose a position, half of the time among the first bytes, where headers are."""
    return rng.randrange(min(len(data), 300) if rng.random() < 0.5 else len(data)) if data else 0


def _with_right_checksums(png: bytes) -> bytes:
    """Correct the checksums of a PNG's chunks, so that a decoder looks at what they hold."""
    at, out = len(PNG), [PNG]
    while at + 8 <= len(png):
        size, name = struct.unpack(">I4s", png[at : at + 8])
        body = png[at + 4 : at + 8 + size]
        out += [png[at : at + 4], body, struct.pack(">I", zlib.crc32(body))]
        at += 12 + size
        if name == b"IEND":
            break
    return b"".join(out)


BINARY_WAYS: tuple[Mutation, ...] = (
    *(_flip, _flip, _overwrite, _cut, _remove, _insert),
    *(_splice, _repeat, _length, _length, _number),
)
TEXT_WAYS: tuple[Mutation, ...] = (_flip, _cut, _remove, _splice, _repeat, _number, _number, _word, _word, _insert)
