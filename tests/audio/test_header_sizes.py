"""Files whose sizes hide the sound from FFmpeg are read whole, or the line says what they lack."""

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from liveavatar.audio.header_sizes import wrong_sizes
from liveavatar.audio.ingest import load_audio
from liveavatar.errors import InputError
from liveavatar.media.ffmpeg import ffmpeg_binary
from tests.audio.sounds import noise, tone, write, write_av

SOUND = noise(3.0)


def converted(folder: Path, *options: str) -> bytes:
    """Convert noise of 3 s with the ffmpeg program, which writes into a pipe and so cannot go back to the header."""
    source = write(folder / "source.wav", SOUND, 16_000)
    command = [ffmpeg_binary(), "-v", "error", "-i", str(source), *options, "-"]
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).stdout


def coded(folder: Path, name: str, codec: str) -> bytes:
    """Code a tone of 3 s into a file."""
    return write_av(folder / name, tone(rate=48_000), codec, pictures=False).read_bytes()


def resized(data: bytes, mark: bytes, form: str, change: Callable[[int], int], at: int = 4) -> bytes:
    """Change the size that lies at a place from a mark."""
    place = data.index(mark) + at
    (size,) = struct.unpack_from(form, data, place)
    return data[:place] + struct.pack(form, change(size)) + data[place + struct.calcsize(form) :]


Maker = Callable[[Path], bytes]


def _aiff(form: int, size: int) -> Maker:
    def make(folder: Path) -> bytes:
        data = write(folder / "a.aiff", SOUND, 16_000).read_bytes()
        return resized(resized(data, b"FORM", ">I", lambda _: form), b"SSND", ">I", lambda _: size)

    return make


def _alac(change: Callable[[int], int]) -> Maker:
    return lambda folder: resized(coded(folder, "a.caf", "alac"), b"data", ">q", change)


def _m4a(change: Callable[[int], int]) -> Maker:
    return lambda folder: resized(coded(folder, "a.m4a", "aac"), b"mdat", ">I", change, -4)


def _wide_m4a(change: Callable[[int], int]) -> Maker:
    """An MP4 whose sound has a size of 64 bits: the box `free` before it makes room for it."""

    def make(folder: Path) -> bytes:
        data = coded(folder, "a.m4a", "aac")
        place = data.index(b"mdat") - 12
        assert data[place : place + 8] == struct.pack(">I4s", 8, b"free")
        (size,) = struct.unpack_from(">I", data, place + 8)
        return data[:place] + struct.pack(">I4sQ", 1, b"mdat", change(size + 8)) + data[place + 16 :]

    return make


@pytest.mark.parametrize(
    ("make", "line"),
    [
        pytest.param(lambda f: converted(f, "-f", "aiff"), "", id="AIFF from a pipe"),
        pytest.param(_aiff(0, 0), "", id="AIFF of zeros"),
        pytest.param(_aiff(0xFFFF_FFFF, 0xFFFF_FFFF), "", id="AIFF of ones"),
        pytest.param(_aiff(0x7FFF_FFFF, 0x7FFF_FFFF), "", id="AIFF of sox in a pipe"),
        pytest.param(_alac(lambda _: -1), "", id="ALAC in CAF of ones"),
        pytest.param(_alac(lambda size: size // 3), "bytes where", id="ALAC in CAF, too small"),
        pytest.param(_alac(lambda size: size * 3), "bytes where", id="ALAC in CAF, too large"),
        pytest.param(_m4a(lambda size: size // 3), "bytes where", id="M4A, too small"),
        pytest.param(_m4a(lambda size: size * 3), "bytes where", id="M4A, too large"),
        pytest.param(_m4a(lambda _: 0), "", id="M4A, to the end"),
        pytest.param(_m4a(lambda _: 3), "", id="M4A, smaller than its head"),
        pytest.param(_wide_m4a(lambda size: size + 5_000), "bytes where", id="M4A of 64 bits, too large"),
        pytest.param(lambda f: converted(f, "-c:a", "pcm_s16le", "-f", "avi"), "", id="AVI from a pipe"),
        pytest.param(lambda f: converted(f, "-c:a", "libmp3lame", "-f", "avi"), "", id="AVI of MP3 from a pipe"),
        pytest.param(lambda f: converted(f, "-f", "wv"), "", id="WavPack from a pipe"),
    ],
)
def test_sound_behind_a_wrong_size_is_read(
    tmp_path: Path, make: Maker, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "made"
    path.write_bytes(make(tmp_path))
    assert len(load_audio(path)) / 16_000 == pytest.approx(3.0, abs=0.15)
    assert [record.getMessage().count(line) for record in caplog.records] == ([1] if line else [])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda f: coded(f, "a.m4a", "aac")[:-2000], r"its index \(the box moov\)", id="M4A"),
        pytest.param(
            lambda f: resized(coded(f, "a.caf", "alac"), b"data", ">q", lambda _: -1).replace(b"pakt", b"paxt"),
            r"the table of its packets \(the chunk pakt\)",
            id="CAF",
        ),
        pytest.param(lambda f: _aiff(0, 0)(f).replace(b"COMM", b"XXXX"), r"its format \(the chunk COMM\)", id="AIFF"),
    ],
)
def test_what_a_file_lacks_is_named(tmp_path: Path, make: Maker, words: str) -> None:
    path = tmp_path / "made"
    path.write_bytes(make(tmp_path))
    with pytest.raises(InputError, match=rf"cannot be read as sound or video: {words} is not there, .* copy it again"):
        load_audio(path)


@pytest.mark.parametrize("name", ["a.aiff", "a.wav", "a.flac", "a.caf", "a.m4a"])
def test_right_sizes_stay(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.m4a":
        write_av(path, tone(rate=48_000), "aac", pictures=False)
    else:
        write(path, SOUND, 16_000)
    assert wrong_sizes(path) is None


def test_a_sound_of_no_length_is_refused_in_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.aiff", np.zeros(0, np.float32), 16_000)
    with pytest.raises(InputError):
        load_audio(path)
