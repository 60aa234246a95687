"""Every kind of picture is read, every bad one refused in one line, and crops hold the face and no bars."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from liveavatar.config import LIVE_AVATAR_14B, MINI, TINY
from liveavatar.errors import InputError
from liveavatar.face.detect import FaceBox, find_face
from liveavatar.media.portrait import (
    EYE_DISTANCE,
    EYE_HEIGHT,
    WIDE_EYE_DISTANCE,
    WIDE_EYE_HEIGHT,
    crop_box,
    fit_portrait,
    load_portrait,
    target_size,
)
from liveavatar.media.sizes import released_crop
from liveavatar.quality.split import load_split

RGB = np.zeros((96, 128, 3), np.uint8) + np.array([200, 100, 50], np.uint8)


def _save(name: str, picture: Image.Image, **options: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        picture.save(folder / name, **options)
        return folder / name

    return make


def _alpha() -> Image.Image:
    rgba = np.dstack([RGB, np.full((96, 128), 255, np.uint8)])
    rgba[:, 64:, 3] = 0
    return Image.fromarray(rgba)


def _frames(count: int) -> list[Image.Image]:
    return [Image.fromarray(np.roll(RGB, k, axis=2)) for k in range(count)]


PLAIN = Image.fromarray(RGB)
GREY_VALUE = 120


@pytest.mark.parametrize(
    ("make", "colour"),
    [
        pytest.param(_save("a.png", PLAIN), (200, 100, 50), id="png"),
        pytest.param(_save("a.jpg", PLAIN, quality=95), (200, 100, 50), id="jpeg"),
        pytest.param(_save("a.webp", PLAIN, lossless=True), (200, 100, 50), id="webp"),
        pytest.param(_save("a.bmp", PLAIN), (200, 100, 50), id="bmp"),
        pytest.param(_save("a.tif", PLAIN), (200, 100, 50), id="tiff"),
        pytest.param(_save("a.jpg.txt.png", PLAIN), (200, 100, 50), id="odd name"),
        pytest.param(_save("a.png", PLAIN.convert("P")), (200, 100, 50), id="palette"),
        pytest.param(_save("a.gif", PLAIN, save_all=True, append_images=_frames(3)[1:]), (200, 100, 50), id="gif film"),
        pytest.param(
            _save("a.webp", PLAIN, save_all=True, append_images=_frames(3)[1:], lossless=True),
            (200, 100, 50),
            id="webp film",
        ),
        pytest.param(_save("a.png", Image.new("L", (128, 96), GREY_VALUE)), (120, 120, 120), id="grey"),
        pytest.param(_save("a.png", Image.new("1", (128, 96), 1)), (255, 255, 255), id="black and white"),
        pytest.param(_save("a.png", Image.new("LA", (128, 96), (0, 0))), (255, 255, 255), id="grey with alpha"),
        pytest.param(_save("a.png", _alpha()), (200, 100, 50), id="alpha"),
        pytest.param(
            _save("a.png", Image.fromarray(np.full((96, 128), 120 * 257, np.uint16))), (120, 120, 120), id="16 bit"
        ),
        pytest.param(
            _save("a.tif", Image.fromarray(np.full((96, 128), 120 / 255, np.float32))), (120, 120, 120), id="float"
        ),
        pytest.param(_save("a.jpg", PLAIN.convert("CMYK"), quality=95), (200, 100, 50), id="cmyk jpeg"),
        pytest.param(_save("a.tif", PLAIN.convert("CMYK")), (200, 100, 50), id="cmyk tiff"),
        pytest.param(_save("a.png", PLAIN, icc_profile=b"broken"), (200, 100, 50), id="broken colour profile"),
    ],
)
def test_reads(tmp_path: Path, make: Callable[[Path], Path], colour: tuple[int, int, int]) -> None:
    rgb = load_portrait(make(tmp_path))
    assert rgb.shape == (96, 128, 3)
    assert rgb.dtype == np.uint8
    np.testing.assert_allclose(rgb[48, 20], colour, atol=4)


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    rgb = load_portrait(_save("a.png", _alpha())(tmp_path))
    assert (rgb[:, 64:] == 255).all()
    palette = PLAIN.quantize(2)
    palette.save(tmp_path / "p.png", transparency=palette.getpixel((0, 0)))
    assert (load_portrait(tmp_path / "p.png") == 255).all()


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [
        pytest.param(1, (0, 0), id="upright"),
        pytest.param(3, (-1, -1), id="upside down"),
        pytest.param(6, (0, -1), id="turned right"),
        pytest.param(8, (-1, 0), id="turned left"),
    ],
)
def test_exif_orientation(tmp_path: Path, orientation: int, corner: tuple[int, int]) -> None:
    marked = np.zeros((96, 128, 3), np.uint8)
    marked[:16, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(marked).save(tmp_path / "a.png", exif=exif)
    rgb = load_portrait(tmp_path / "a.png")
    assert rgb.shape[:2] == ((96, 128) if orientation in (1, 3) else (128, 96))
    assert rgb[corner].min() == 255
    assert rgb.mean() < 20


def test_colour_profile_is_applied(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    same = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    PLAIN.save(tmp_path / "same.png", icc_profile=same)
    PLAIN.save(tmp_path / "other.png", icc_profile=profile)  # a profile of another kind of picture is ignored
    for name in ("same.png", "other.png"):
        np.testing.assert_allclose(load_portrait(tmp_path / name)[0, 0], (200, 100, 50), atol=2)


def _bytes(content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "a.jpg").write_bytes(content)
        return folder / "a.jpg"

    return make


def _encoded(kind: str, picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda f: f / "none.png", "no such file", id="missing"),
        pytest.param(lambda f: f, "directory", id="directory"),
        pytest.param(_bytes(b""), "empty", id="0 bytes"),
        pytest.param(_bytes(b"Dear all, please find attached"), "no picture", id="text"),
        pytest.param(_bytes(b"RIFF\x24\x00\x00\x00WAVEfmt "), "no picture", id="sound"),
        pytest.param(_bytes(np.random.default_rng(1).bytes(5000)), "no picture", id="random bytes"),
        pytest.param(_save("a.png", Image.new("RGB", (1, 1))), "1x1 px is too small", id="1x1"),
        pytest.param(_save("a.png", Image.new("RGB", (63, 900))), "63x900 px is too small", id="one side too small"),
        pytest.param(_save("a.png", Image.new("1", (20_000, 20_000))), "too many pixels|too large", id="20000x20000"),
        pytest.param(_save("a.png", Image.new("1", (11_000, 11_000))), "too large", id="121 megapixels"),
        pytest.param(_save("a.png", Image.new("1", (17_000, 100))), "too large", id="too wide"),
        pytest.param(_bytes(_encoded("JPEG", NOISE)[:8_000]), "cut off", id="truncated jpeg"),
        pytest.param(_bytes(_encoded("PNG", NOISE)[:50_000]), "cut off", id="truncated png"),
        pytest.param(
            _bytes(_encoded("PNG", NOISE).replace(b"IDAT", b"IDAX", 1)), "no picture|cut off", id="damaged png"
        ),
    ],
)
def test_refuses(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_portrait(make(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("width", "height", "size", "expected"),
    [
        pytest.param(800, 600, (384, 256), (384, 256), id="landscape"),
        pytest.param(600, 800, (384, 256), (256, 384), id="portrait"),
        pytest.param(600, 800, (256, 384), (256, 384), id="only the product counts"),
        pytest.param(600, 600, (384, 256), (256, 384), id="square stands upright"),
        pytest.param(64, 4000, (384, 256), (256, 384), id="very tall"),
    ],
)
def test_size_of_mini(width: int, height: int, size: tuple[int, int], expected: tuple[int, int]) -> None:
    for cfg in (MINI, TINY):
        assert target_size(width, height, size, cfg) == expected
        fitted = fit_portrait(np.zeros((height, width, 3), np.uint8) + np.uint8(90), size, cfg)
        assert fitted.shape == (expected[1], expected[0], 3)
        assert (fitted == 90).all()


@pytest.mark.parametrize(
    ("cfg", "size"),
    [
        pytest.param(MINI, (7, 7), id="mini 7*7"),
        pytest.param(MINI, (704, 384), id="mini at a size of the 14B"),
        pytest.param(LIVE_AVATAR_14B, (7, 7), id="14B 7*7"),
        pytest.param(LIVE_AVATAR_14B, (4000, 4000), id="14B too large"),
    ],
)
def test_unknown_sizes(cfg, size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="use one of"):
        fit_portrait(RGB, size, cfg)


def test_sizes_and_crops_of_the_14b() -> None:
    rows = [r.split("\t") for r in Path(__file__).with_name("released_sizes.tsv").read_text().splitlines()[1:]]
    for in_w, in_h, size, out_w, out_h, resized_w, resized_h in rows:
        wanted = (int(out_w), int(out_h))
        w, h = (int(n) for n in size.split("*"))
        assert target_size(int(in_w), int(in_h), (w, h), LIVE_AVATAR_14B) == wanted, (in_w, in_h, size)
        if int(in_w) * int(in_h) > 2e6:
            continue
        picture = np.full((int(in_h), int(in_w), 3), 255, np.uint8)
        fitted = fit_portrait(picture, (w, h), LIVE_AVATAR_14B)
        assert fitted.shape == (wanted[1], wanted[0], 3)
        assert fitted.min() == 255  # no bars, also where the released crop has them
        barless = int(resized_w) >= wanted[0] and int(resized_h) >= wanted[1]
        assert barless == (released_crop(picture, *wanted).min() == 255)


@pytest.mark.parametrize(("width", "height"), [(1000, 700), (700, 1000), (515, 300)])
def test_crop_of_the_14b_is_the_released_one_where_that_has_no_bars(width: int, height: int) -> None:
    picture = np.asarray(NOISE.resize((width, height)))
    out = target_size(width, height, (384, 256), LIVE_AVATAR_14B)
    released = released_crop(picture, *out)
    if not (released.reshape(-1, 3).max(1) == 0).any():
        np.testing.assert_array_equal(fit_portrait(picture, (384, 256), LIVE_AVATAR_14B), released)


def _face(x: float, y: float, distance: float) -> FaceBox:
    return FaceBox(eye_x=x, eye_y=y, eye_distance=distance, score=0.9)


@pytest.mark.parametrize(
    ("picture", "out", "face", "box"),
    [
        pytest.param((384, 256), (384, 256), None, (0, 0, 384, 256), id="fits already"),
        pytest.param((600, 1200), (256, 384), None, (0, 75, 600, 975), id="no face: above the centre"),
        pytest.param((1200, 600), (256, 384), None, (400, 0, 800, 600), id="no face: centre across"),
        pytest.param(
            (256, 384), (256, 384), _face(128, 384 * EYE_HEIGHT, 384 * EYE_DISTANCE), (0, 0, 256, 384), id="as trained"
        ),
        pytest.param((256, 384), (256, 384), _face(133, 145, 60), (0, 0, 256, 384), id="nearly as trained"),
        pytest.param((2000, 3000), (256, 384), _face(900, 800, 59.6), (766.7, 656.8, 1033.3, 1056.8), id="small face"),
        pytest.param((2000, 3000), (256, 384), _face(40, 60, 59.6), (0, 0, 266.7, 400), id="small face in a corner"),
        pytest.param((2000, 3000), (256, 384), _face(900, 800, 9), (836, 731.3, 964, 923.3), id="twice at most"),
        pytest.param((400, 600), (256, 384), _face(200, 250, 200), (0, 0, 400, 600), id="closer than trained"),
    ],
)
def test_crop_box(
    picture: tuple[int, int], out: tuple[int, int], face: FaceBox | None, box: tuple[float, float, float, float]
) -> None:
    assert crop_box(*picture, *out, face) == pytest.approx(box, abs=0.1)


@pytest.mark.parametrize("number", [0, 2, 5])
def test_faces_come_to_their_place(number: int) -> None:
    """Check the crop of a photo with much more room around the head than the model is used to."""
    clip = load_split()[number]
    rgb = np.pad(clip.photo(), ((250, 150), (300, 100), (0, 0)), mode="edge")
    face = find_face(rgb)
    assert face is not None
    eyes = clip.labels().photo_landmarks[36:48].mean(0) + np.array([300, 250])
    assert (face.eye_x, face.eye_y) == pytest.approx(eyes.tolist(), abs=12)
    fitted = fit_portrait(rgb, (384, 256), MINI)
    out_h, out_w, _ = fitted.shape
    wide = out_w > out_h
    distance, eye_height = (WIDE_EYE_DISTANCE, WIDE_EYE_HEIGHT) if wide else (EYE_DISTANCE, EYE_HEIGHT)
    left, top, _, bottom = crop_box(rgb.shape[1], rgb.shape[0], out_w, out_h, face)
    part = bottom - top
    assert (face.eye_y - top) / part == pytest.approx(eye_height, abs=0.06)
    assert (face.eye_x - left) / part * out_h / out_w == pytest.approx(0.5, abs=0.06)
    assert face.eye_distance / part == pytest.approx(distance, rel=0.4)
