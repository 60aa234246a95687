"""Lists of chunks are walked as far as they go; containers are found anywhere in a file."""

import io
import struct

import pytest

from liveavatar.media.chunks import (
    CAF,
    MP4,
    RIFF,
    W64,
    W64_HEAD,
    W64_MAGIC,
    WAV_HEAD,
    ChunkLayout,
    chunks,
    find_head,
    size_of,
)

GUID = b"data" + bytes(12)


@pytest.mark.parametrize(
    ("layout", "content", "found"),
    [
        pytest.param(
            RIFF,
            struct.pack("<4sI3sx4sI", b"one ", 3, b"abc", b"two ", 9),
            [(b"one ", 8, 3), (b"two ", 20, 9)],
            id="RIFF",
        ),
        pytest.param(
            CAF,
            struct.pack(">4sQ3s4sQ", b"one ", 3, b"abc", b"two ", 0),
            [(b"one ", 12, 3), (b"two ", 27, 0)],
            id="CAF",
        ),
        pytest.param(
            W64, struct.pack("<16sQ3s5x16sQ", GUID, 27, b"abc", GUID, 24), [(GUID, 24, 3), (GUID, 56, 0)], id="W64"
        ),
        pytest.param(W64, struct.pack("<16sQ", GUID, 0) + bytes(50), [(GUID, 24, 0)], id="W64 without a size"),
        pytest.param(
            MP4,
            struct.pack(">I4s3sI4s", 11, b"free", b"abc", 0, b"mdat") + bytes(5),
            [(b"free", 8, 3), (b"mdat", 19, 5)],
            id="MP4",
        ),
        pytest.param(MP4, struct.pack(">I4sQ3s", 1, b"mdat", 19, b"abc"), [(b"mdat", 16, 3)], id="MP4 with 64 bits"),
        pytest.param(RIFF, b"one", [], id="nothing"),
    ],
)
def test_chunks(layout: ChunkLayout, content: bytes, found: list[tuple[bytes, int, int]]) -> None:
    file = io.BytesIO(content)
    assert [(c.name, c.start, c.size) for c in chunks(file, layout, 0, size_of(file))] == found


def test_chunks_are_aligned_to_the_first() -> None:
    file = io.BytesIO(b"x" + struct.pack("<4sI3sx4sI", b"one ", 3, b"abc", b"two ", 0))
    assert [c.at for c in chunks(file, RIFF, 1, size_of(file))] == [1, 13]


@pytest.mark.parametrize("at", [0, 100, (1 << 20) - 8, (1 << 20) + 55, (1 << 20) + 64, (3 << 20) - 1])
def test_a_container_is_found_at_every_position(at: int) -> None:
    content = bytearray(3 << 20)
    content[at : at + 16] = b"RIFF....WAVEfmt "
    content = bytearray(b"WAVE") + content
    file = io.BytesIO(bytes(content))
    assert find_head(file, (W64_HEAD, WAV_HEAD), 0) == at + 4
    assert find_head(file, (WAV_HEAD,), at + 5) is None
    assert find_head(io.BytesIO(bytes(5) + W64_MAGIC), (W64_HEAD, WAV_HEAD), 0) == 5
