"""Damage inside a JPEG is seen, and a whole one, however it was written, is not called damaged."""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from liveavatar.errors import InputError
from liveavatar.media.jpeg import jpeg_damage
from liveavatar.media.picture import read_picture

NOISE = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
PICTURE = Image.fromarray(NOISE).resize((240, 160), Image.Resampling.BICUBIC)
TURNED = Image.Exif()
TURNED[0x0112] = 6


def written(mode: str = "RGB", **options: Any) -> bytes:
    out = io.BytesIO()
    PICTURE.convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


WHOLE = {
    "plain": written(),
    "progressive": written(progressive=True),
    "grey": written("L"),
    "cmyk": written("CMYK"),
    "progressive cmyk": written("CMYK", progressive=True),
    "turned": written(exif=TURNED.tobytes()),
    "restart marks": written(restart_marker_blocks=4),
    "best": written(quality=100, subsampling=0),
    "trailing bytes": written() + b"abc" * 1000,
    "padding before the end mark": written()[:-2] + bytes(4) + b"\xff\xd9",
}


@pytest.mark.parametrize("content", [pytest.param(content, id=name) for name, content in WHOLE.items()])
def test_a_whole_picture_is_not_damaged(content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with (tmp_path / "a.jpg").open("rb") as file:
        assert jpeg_damage(file) is None
    assert sorted(read_picture(tmp_path / "a.jpg").shape) == [3, 160, 240]
    assert not caplog.records


def zeroed(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(400) + content[middle + 400 :]


def taller(content: bytes) -> bytes:
    """Write half as much again into the height of the header."""
    at = next(at for mark in (b"\xff\xc0\x00", b"\xff\xc2\x00") if (at := content.find(mark)) > 0) + 5
    (height,) = struct.unpack_from(">H", content, at)
    return content[:at] + struct.pack(">H", height * 3 // 2) + content[at + 2 :]


@pytest.mark.parametrize("damage", [zeroed, taller])
@pytest.mark.parametrize("name", ["plain", "progressive", "grey", "cmyk", "turned", "restart marks"])
def test_damage_is_told(
    damage: Callable[[bytes], bytes], name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(damage(WHOLE[name]))
    with path.open("rb") as file:
        found = jpeg_damage(file)
    assert found is not None
    if found[1]:
        with pytest.raises(InputError, match=r"a\.jpg: a part of it is missing or damaged \(.*\); export or copy"):
            read_picture(path)
    else:
        read_picture(path)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert f"{path}: it may be damaged ({found[0]})" in caplog.text
    assert found[1] or damage is zeroed


def test_what_is_no_jpeg_cannot_be_told(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff" + bytes(100))
    with (tmp_path / "a.jpg").open("rb") as file:
        assert jpeg_damage(file) is None
