"""Only promised formats are decoded, in bounded memory, with their colours; odd files are refused in one line."""

import contextlib
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from liveavatar.errors import InputError
from liveavatar.media.picture import KEPT_PIXELS, read_picture
from liveavatar.media.portrait import load_portrait
from liveavatar.paths import REPO_ROOT

RGB = np.zeros((96, 128, 3), np.uint8) + np.array([200, 100, 50], np.uint8)
PLAIN = Image.fromarray(RGB)
PORTRAIT = REPO_ROOT / "data" / "samples" / "portrait.png"


def _swapped_profile() -> bytes:
    """An RGB profile whose red and green change places: an ignored profile is seen at once."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for index in range(struct.unpack(">I", profile[128:132])[0]):
        at = 132 + 12 * index
        name = bytes(profile[at : at + 4])
        if name in (b"rXYZ", b"gXYZ"):
            profile[at : at + 4] = b"gXYZ" if name == b"rXYZ" else b"rXYZ"
    return bytes(profile)


@pytest.mark.parametrize("content", [None, b"", b"I am a picture, honestly", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_picture_is_refused_without_naming_an_option(content: bytes | None, tmp_path: Path) -> None:
    """Many commands read pictures, each with options of its own."""
    if content is not None:
        (tmp_path / "face.png").write_bytes(content)
    with pytest.raises(InputError, match=r"face\.png: ") as refused:
        read_picture(tmp_path / "face.png")
    assert "--" not in str(refused.value)


def test_the_sample_portrait_keeps_its_bytes() -> None:
    np.testing.assert_array_equal(load_portrait(PORTRAIT), np.asarray(Image.open(PORTRAIT).convert("RGB")))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "P with transparency", "RGB with transparency"])
def test_colour_profile_is_applied_in_every_mode(tmp_path: Path, mode: str) -> None:
    picture = PLAIN.quantize(4) if mode.startswith("P") else PLAIN.convert(mode.split()[0])
    options = {}
    if mode.startswith("P with"):
        options = {"transparency": 3 if picture.getpixel((0, 0)) != 3 else 2}
    elif "with" in mode:
        options = {"transparency": (1, 2, 3)}
    picture.save(tmp_path / "a.png", icc_profile=_swapped_profile(), **options)
    np.testing.assert_allclose(read_picture(tmp_path / "a.png")[0, 0], (100, 200, 50), atol=3)


def test_transparency_survives_the_colour_profile(tmp_path: Path) -> None:
    rgba = np.dstack([RGB, np.full((96, 128), 255, np.uint8)])
    rgba[:, 64:, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "a.png", icc_profile=_swapped_profile())
    assert (read_picture(tmp_path / "a.png")[:, 64:] == 255).all()


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_grey_of_any_depth_spans_the_whole_range(tmp_path: Path, bits: int) -> None:
    top = 2**bits - 1
    grey = np.linspace(0, top, 128).round().astype(np.uint16)[None].repeat(96, 0)
    Image.fromarray(grey).save(tmp_path / "a.png")
    np.testing.assert_allclose(read_picture(tmp_path / "a.png")[5, :, 0], np.linspace(0, 255, 128), atol=1)


def _grey_tiff(path: Path, values: np.ndarray, form: int = 1, white_is_zero: bool = False) -> Path:
    """Write an uncompressed grey TIFF; form: 1 unsigned, 2 signed, 3 float."""
    height, width = values.shape
    tags = [(256, width), (257, height), (258, 8 * values.itemsize), (259, 1), (262, int(not white_is_zero)),
            (273, 8 + 2 + 12 * 10 + 4), (277, 1), (278, height), (279, values.nbytes), (339, form)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + values.tobytes())
    return path


RAMP = np.linspace(0, 1, 128)[None].repeat(96, 0)


@pytest.mark.parametrize(
    ("values", "form", "white_is_zero"),
    [
        pytest.param((RAMP * (2**32 - 1)).astype("<u4"), 1, False, id="unsigned, 32 bits"),
        pytest.param((RAMP * (2**24 - 1)).astype("<u4"), 1, False, id="24 bits in 32"),
        pytest.param((RAMP * 4095).astype("<u4"), 1, False, id="12 bits in 32"),
        pytest.param((RAMP * (2**31 - 1)).astype("<i4"), 2, False, id="signed, 32 bits"),
        pytest.param((RAMP * 65_535).astype("<i4"), 2, False, id="16 bits in signed 32"),
        pytest.param((RAMP * 32_767).astype("<i2"), 2, False, id="signed, 16 bits"),
        pytest.param((RAMP * 65_535).astype("<u2"), 1, False, id="unsigned, 16 bits"),
        pytest.param(((1 - RAMP) * 65_535).astype("<u2"), 1, True, id="16 bits, white is zero"),
        pytest.param(RAMP.astype("<f4"), 3, False, id="float to 1"),
        pytest.param((RAMP * 255).astype("<f4"), 3, False, id="float to 255"),
        pytest.param((RAMP * 65_535).astype("<f4"), 3, False, id="float to 65535"),
    ],
)
def test_numbers_of_any_kind_span_the_whole_range(
    tmp_path: Path, values: np.ndarray, form: int, white_is_zero: bool
) -> None:
    path = _grey_tiff(tmp_path / "a.tif", values, form, white_is_zero)
    np.testing.assert_allclose(read_picture(path)[..., 1], 255 * RAMP, atol=1)


def test_highlights_of_floats_are_clipped(tmp_path: Path) -> None:
    path = _grey_tiff(tmp_path / "a.tif", (1.2 * RAMP).astype("<f4"), 3)
    np.testing.assert_allclose(read_picture(path)[..., 1], np.minimum(255, 306 * RAMP), atol=1)


def _with_chunk(path: Path, name: bytes, content: bytes) -> Path:
    """Put a chunk behind the header of a PNG."""
    data, chunk = path.read_bytes(), name + content
    whole = struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(data[:33] + whole + data[33:])
    return path


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "I;16"])
@pytest.mark.parametrize(("gamma", "exponent"), [(1.0, 1 / 2.2), (1 / 1.8, 1.8 / 2.2), (0.4545, 1.0), (0.0, 1.0)])
def test_gamma_of_a_png_is_applied(tmp_path: Path, mode: str, gamma: float, exponent: float) -> None:
    if mode == "I;16":
        picture = Image.fromarray((RAMP * 65_535).astype(np.uint16))
    else:
        picture = Image.fromarray((255 * RAMP).round().astype(np.uint8)).convert(mode)
    picture.save(tmp_path / "a.png")
    path = _with_chunk(tmp_path / "a.png", b"gAMA", struct.pack(">I", round(gamma * 100_000)))
    np.testing.assert_allclose(read_picture(path)[..., 1], 255 * RAMP**exponent, atol=2)
    _with_chunk(path, b"sRGB", b"\0")
    np.testing.assert_allclose(read_picture(path)[..., 1], 255 * RAMP, atol=1, err_msg="sRGB comes before it")


@pytest.mark.parametrize(
    ("values", "form", "words"),
    [
        pytest.param((2 * RAMP - 1).astype("<f4"), 3, "run from -1 to 1, of which white is not known", id="-1 to 1"),
        pytest.param((RAMP * 1e6).astype("<f4"), 3, "run from 0 to 1e[+]06", id="to a million"),
        pytest.param((RAMP * 2000 - 1000).astype("<i2"), 2, "run from -1000 to 1000", id="negative integers"),
        pytest.param((RAMP * 127).astype("i1"), 2, "signed numbers of 8 bits", id="signed, 8 bits"),
        pytest.param(RAMP.astype("<f8"), 3, "a TIFF of a kind that cannot be read .*PNG or JPEG", id="64-bit float"),
    ],
)
def test_numbers_without_a_known_white_are_refused(tmp_path: Path, values: np.ndarray, form: int, words: str) -> None:
    with pytest.raises(InputError, match=f"a.tif: it.* {words}"):
        read_picture(_grey_tiff(tmp_path / "a.tif", values, form))


@pytest.mark.parametrize(("turns", "words"), [(1, "on its side"), (2, "upside down"), (3, "on its side")])
def test_a_lying_picture_is_turned_with_a_word(
    tmp_path: Path, turns: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    upright = np.asarray(Image.open(PORTRAIT).convert("RGB"))
    Image.fromarray(np.ascontiguousarray(np.rot90(upright, turns))).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_portrait(tmp_path / "a.png"), upright)
    assert [words in record.message for record in caplog.records] == [True]


def _postscript(folder: Path) -> bytes:
    return (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 200 200\n%%EndComments\n"
        + f"({folder}/written) (w) file closefile\n".encode()
        + b"showpage\n%%EOF\n"
    )


@pytest.mark.parametrize("name", ["portrait.jpg", "portrait.png", "portrait.eps"])
def test_a_program_is_no_picture(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    def ran(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was asked")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ran)
    (tmp_path / name).write_bytes(_postscript(tmp_path))
    with pytest.raises(InputError, match="no picture that can be read; give JPEG"):
        read_picture(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def _deep_png(path: Path, colour: int, samples: list[int], highest: int) -> Path:
    """Write a PNG of 16 bits a band whose pixels are all `samples`, the first one `highest`."""
    pixels = np.empty((64, 64, len(samples)), ">u2")
    pixels[:], pixels[0, 0] = samples, highest
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", 64, 64, 16, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    data = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize(
    ("colour", "bands", "expected"),
    [
        pytest.param(2, (200, 100, 50), (200, 100, 50), id="RGB"),
        pytest.param(6, (200, 100, 50, 255), (200, 100, 50), id="RGBA"),
        pytest.param(4, (150, 255), (150, 150, 150), id="grey with transparency"),
    ],
)
def test_colours_of_any_depth_span_the_whole_range(
    tmp_path: Path, bits: int, colour: int, bands: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    highest = 2**bits - 1
    path = _deep_png(tmp_path / "deep.png", colour, [round(band / 255 * highest) for band in bands], highest)
    assert np.abs(read_picture(path)[10, 10] - np.array(expected)).max() <= 1


@pytest.mark.parametrize("kind", ["DDS", "PCX", "SGI", "PDF"])
def test_other_formats_are_refused(tmp_path: Path, kind: str) -> None:
    PLAIN.save(tmp_path / "a.png", kind)
    with pytest.raises(InputError, match="no picture that can be read"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_flipped_bytes_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    Image.open(PORTRAIT).convert("RGB").resize((96, 128)).save(buffer, kind)
    rng = np.random.default_rng(7)
    path = tmp_path / "a.png"
    for _ in range(30):
        content = np.frombuffer(buffer.getvalue(), np.uint8).copy()
        places = rng.integers(0, min(len(content), 400) if rng.random() < 0.5 else len(content), 6)
        content[places] = rng.integers(0, 256, 6)
        path.write_bytes(content.tobytes())
        with contextlib.suppress(InputError):  # any other error fails the test
            assert read_picture(path).ndim == 3


def _grey_png(side: int) -> bytes:
    """A 16-bit grey PNG of one value, made a row at a time."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    row = b"\0" + b"\x80\x00" * side
    data = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
    header = struct.pack(">IIBBBBB", side, side, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.slow
def test_100_megapixels_fit_in_500_megabytes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_grey_png(10_000))
    script = (
        "import sys; from liveavatar.media.picture import read_picture; rgb = read_picture(sys.argv[1]);"
        "peak = next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM'));"
        "print(*rgb.shape, rgb.min(), rgb.max(), peak)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "a.png"], capture_output=True, text=True, timeout=120, check=True
    )
    height, width, _, low, high, kilobytes = (int(word) for word in done.stdout.split())
    assert height == width == 3334
    assert height * width <= KEPT_PIXELS
    assert low == high == 128
    assert kilobytes < 500_000


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_large_picture_is_reduced(tmp_path: Path, kind: str) -> None:
    small = Image.open(PORTRAIT).convert("RGB")
    small.resize((4096, 6144), Image.Resampling.BICUBIC).save(tmp_path / "a.png", kind, compress_level=1)
    rgb = read_picture(tmp_path / "a.png")
    assert rgb.shape == (3072, 2048, 3)
    again = np.asarray(Image.fromarray(rgb).resize(small.size, Image.Resampling.BOX))
    assert np.abs(again.astype(int) - np.asarray(small)).mean() < 3
