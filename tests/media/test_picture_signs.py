"""The bytes of a picture tell damage and colours that its decoder passes over."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from liveavatar.errors import InputError
from liveavatar.media.picture import read_picture
from liveavatar.media.picture_signs import hdr_of
from liveavatar.paths import REPO_ROOT

PORTRAIT = REPO_ROOT / "data" / "samples" / "portrait.png"
ZEROS = bytes(2000)


@pytest.mark.parametrize("kind", ["webp", "avif", "jp2"])
def test_zeros_in_place_of_a_part_are_told(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / f"a.{kind}"
    Image.open(PORTRAIT).convert("RGB").save(path)
    read_picture(path)
    assert not caplog.records
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + ZEROS + content[half + len(ZEROS) :])
    read_picture(path)
    assert "it may be damaged (2000 zero bytes in a row" in caplog.text


def _cut(name: str, **options: object) -> Callable[[Path], bytes]:
    def make(folder: Path) -> bytes:
        Image.open(PORTRAIT).convert("RGB").save(folder / name, **options)
        content = (folder / name).read_bytes()
        return content[: len(content) // 2]

    return make


def _wrong_sum(folder: Path) -> bytes:
    content = PORTRAIT.read_bytes()
    note = struct.pack(">I", 4) + b"tEXt" + b"k\0ab" + bytes(4)
    return content[:33] + note + content[33:]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(_cut("a.avif"), "begins as AVIF but is cut off", id="half an AVIF"),
        pytest.param(_cut("a.tif", compression="tiff_lzw"), "is a TIFF that is cut off", id="half a TIFF"),
        pytest.param(_wrong_sum, "begins as PNG but is cut off, damaged", id="PNG with a wrong sum"),
    ],
)
def test_what_is_damaged_is_not_called_another_kind(make: Callable[[Path], bytes], words: str, tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes(make(tmp_path))
    with pytest.raises(InputError, match=words):
        read_picture(tmp_path / "odd")


def _box(name: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + name + body


@pytest.mark.parametrize("curve", [16, 18, 13])
def test_hdr_is_named(curve: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = PORTRAIT.read_bytes()
    chunk = b"cICP" + bytes([9, curve, 0, 1])
    added = struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "a.png").write_bytes(content[:33] + added + content[33:])
    read_picture(tmp_path / "a.png")
    assert ("its colours are HDR" in caplog.text) == (curve != 13)
    heads = _box(b"ftyp", b"avif", bytes(4)), _box(b"colr", b"nclx", struct.pack(">HHHB", 9, curve, 9, 128))
    assert (hdr_of(io.BytesIO(b"".join(heads))) is None) == (curve == 13)
