"""HEIC is read as phones show it: whole, turned once, in its colours; odd files are refused in one line."""

import contextlib
import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from liveavatar.errors import InputError
from liveavatar.media.colour_profile import profile_of_primaries
from liveavatar.media.heic import Heic
from liveavatar.media.picture import read_picture
from liveavatar.paths import REPO_ROOT
from tests.media.heif_files import FULL, LIMITED, Entry, coded, crop, heif, nclx, size, tiled

RGB = np.asarray(Image.open(REPO_ROOT / "data" / "samples" / "portrait.png").convert("RGB").resize((150, 200)))
PLAIN = np.zeros((64, 96, 3), np.uint8) + np.array([200, 100, 50], np.uint8)
ALPHA = (b"auxC", bytes(4) + b"urn:mpeg:hevc:2015:auxid:1\0")


def _read(folder: Path, entries: dict[int, Entry], brand: bytes = b"heic") -> np.ndarray:
    (folder / "a.heic").write_bytes(heif(entries, brand=brand))
    return read_picture(folder / "a.heic").astype(int)


def _one(rgb: np.ndarray, *properties: tuple[bytes, bytes], form: str = "yuv420p") -> dict[int, Entry]:
    entry = coded(rgb, form)
    entry.properties += properties
    return {1: entry}


def _off(rgb: np.ndarray, like: np.ndarray = RGB) -> float:
    assert rgb.shape == like.shape
    return float(np.abs(rgb - like).mean())


@pytest.mark.parametrize("form", ["yuv420p", "yuv420p10le", "yuv420p12le", "yuv422p10le", "yuv444p", "gbrp"])
@pytest.mark.parametrize("colour_range", [FULL, LIMITED])
def test_depths_forms_and_ranges(tmp_path: Path, form: str, colour_range: int) -> None:
    assert _off(_read(tmp_path, {1: coded(RGB, form, colour_range)})) < 2.5


@pytest.mark.parametrize("form", ["gray", "gray10le", "gray12le"])
def test_grey(tmp_path: Path, form: str) -> None:
    grey = np.asarray(Image.fromarray(RGB).convert("L").convert("RGB"))
    assert _off(_read(tmp_path, _one(RGB, form=form)), grey) < 1


def test_tiles_are_put_together_and_cut_to_the_size_beside_other_pictures(tmp_path: Path) -> None:
    other = coded(np.zeros((64, 64, 3), np.uint8))
    depth = Entry(data=other.data, references={b"auxl": [1]}, properties=[
        *other.properties, (b"auxC", bytes(4) + b"urn:com:apple:photo:2020:aux:hdrgainmap\0"),
    ])  # fmt: skip
    entries = {5: Entry(data=other.data, references={b"thmb": [1]}, properties=other.properties), 6: depth}
    assert _off(_read(tmp_path, entries | tiled(RGB, 64), brand=b"mif1")) < 2.5


@pytest.mark.parametrize("quarters", range(4))
def test_turns_and_mirrors_are_applied_once_whatever_exif_says(tmp_path: Path, quarters: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    entries = tiled(RGB, 64)
    entries[1].properties += [(b"irot", bytes([quarters])), (b"imir", b"\1")]
    entries[3] = Entry(kind=b"Exif", data=bytes(4) + exif.tobytes(), references={b"cdsc": [1]})
    assert _off(_read(tmp_path, entries), np.rot90(RGB, quarters)[:, ::-1]) < 2.5


def test_top_and_bottom_change_places(tmp_path: Path) -> None:
    assert _off(_read(tmp_path, _one(RGB, (b"imir", b"\0"))), RGB[::-1]) < 2.5


def test_crop(tmp_path: Path) -> None:
    shown = _read(tmp_path, _one(RGB, crop(100, 80, right=20, down=-40)))
    assert _off(shown, RGB[40:120, 35:135]) < 2.5


@pytest.mark.parametrize("on_tiles", [False, True])
def test_profile(tmp_path: Path, on_tiles: bool) -> None:
    wide = profile_of_primaries(12, 13)
    assert wide is not None
    entries = tiled(PLAIN, 64)
    for number, entry in entries.items():
        if (number > 1) == on_tiles:
            entry.properties.append((b"colr", b"prof" + wide))
    expected = ImageCms.profileToProfile(
        Image.fromarray(PLAIN), ImageCms.ImageCmsProfile(io.BytesIO(wide)), ImageCms.createProfile("sRGB")
    )
    assert expected is not None
    assert _off(_read(tmp_path, entries), np.asarray(expected)) < 2


def test_wide_primaries_without_a_profile(tmp_path: Path) -> None:
    rgb = _read(tmp_path, _one(PLAIN, nclx(12, 13, 6, True)))
    np.testing.assert_allclose(rgb[32, 48], (215, 93, 31), atol=4)  # Display P3, shown as sRGB


def test_range_and_matrix_of_the_properties_come_first(tmp_path: Path) -> None:
    said = coded(RGB, colour_range=LIMITED)
    unsaid = coded(RGB, colour_range=FULL)
    unsaid.data = said.data
    unsaid.properties.append(nclx(1, 13, 6, False))
    assert _off(_read(tmp_path, {1: unsaid})) < 2.5


def test_the_coded_picture_comes_before_properties_of_tiles(tmp_path: Path) -> None:
    """Sony's tiles name a range that is wrong."""
    entries = tiled(RGB, 64)
    for entry in list(entries.values())[1:]:
        entry.properties.append(nclx(1, 13, 5, False))
    assert _off(_read(tmp_path, entries)) < 2.5


@pytest.mark.parametrize("premultiplied", [False, True])
def test_transparency_lies_over_white(tmp_path: Path, premultiplied: bool) -> None:
    clear = np.zeros_like(PLAIN)
    clear[:, :48] = 128
    mask = coded(clear, "gray")
    mask.properties.append(ALPHA)
    mask.references = {b"auxl": [1]}
    entries = _one((PLAIN * (clear / 255)).astype(np.uint8) if premultiplied else PLAIN) | {2: mask}
    if premultiplied:
        entries[1].references = {b"prem": [2]}
    rgb = _read(tmp_path, entries)
    np.testing.assert_allclose(rgb[32, 20], 255 - (255 - PLAIN[0, 0].astype(int)) * 128 // 255, atol=4)
    np.testing.assert_allclose(rgb[32, 80], 255, atol=3)


def _huge(entries: dict[int, Entry]) -> None:
    entries[1].properties[:] = [size(50_000, 50_000)]


def _encrypted(entries: dict[int, Entry]) -> None:
    entries[12].encrypted = True


def _missing(entries: dict[int, Entry]) -> None:
    entries[1].references[b"dimg"].pop()


def _overlay(entries: dict[int, Entry]) -> None:
    entries[1].kind = b"iovl"


def _lying(entries: dict[int, Entry]) -> None:
    large = coded(np.zeros((512, 512, 3), np.uint8))
    entries[11] = Entry(data=large.data, properties=[large.properties[0], size(64, 64)])


def _no_size(entries: dict[int, Entry]) -> None:
    entries[1].properties.clear()


def _garbage(entries: dict[int, Entry]) -> None:
    entries[13].data = entries[13].data[:40] + bytes(range(256)) * 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_huge, "50000x50000 px is too large"),
        (_encrypted, "it is encrypted, a kind of HEIC that cannot be read"),
        (_missing, "tiles are missing"),
        (_overlay, "coded as 'iovl'"),
        (_lying, "its coded picture"),
        (_no_size, "does not say its size"),
        (_garbage, "its coded picture"),
    ],
)
def test_odd_files_are_refused(tmp_path: Path, change: Callable[[dict[int, Entry]], None], words: str) -> None:
    entries = tiled(RGB, 64)
    change(entries)
    with pytest.raises(InputError, match=words):
        _read(tmp_path, entries)


def test_size_is_known_before_anything_is_decoded() -> None:
    entries = tiled(PLAIN, 64)
    for entry in list(entries.values())[1:]:
        entry.data = b""
    heic = Heic(io.BytesIO(heif(entries)))
    assert (heic.size, heic.kind) == ((96, 64), b"hvc1")


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = heif(tiled(PLAIN, 64))
    for end in range(12, len(whole), max(1, len(whole) // 60)):
        (tmp_path / "a.heic").write_bytes(whole[:end])
        with pytest.raises(InputError):
            read_picture(tmp_path / "a.heic")


def test_changed_bytes_give_a_picture_or_one_line(tmp_path: Path) -> None:
    whole = heif(tiled(PLAIN, 64))
    random = np.random.default_rng(3)
    for _ in range(150):
        changed = bytearray(whole)
        for at in random.integers(12, len(whole), 3):
            changed[at] = random.integers(256)
        (tmp_path / "a.heic").write_bytes(changed)
        with contextlib.suppress(InputError):
            assert read_picture(tmp_path / "a.heic").dtype == np.uint8


def test_a_sequence_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(struct.pack(">I", 16) + b"ftyphevc" + bytes(4) + struct.pack(">I", 8) + b"moov")
    with pytest.raises(InputError, match="sequence of pictures, a kind of HEIC"):
        read_picture(tmp_path / "a.heic")
