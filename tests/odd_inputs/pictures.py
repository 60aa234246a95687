"""Pictures: formats, colours, orientation, sizes, places of the face, and files that are no picture."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageDraw, ImageFilter, ImageOps, features

from liveavatar.config import MINI
from liveavatar.face.detect import find_face
from liveavatar.media.portrait import fit_portrait
from tests.media.heif_files import heif, size, tiled
from tests.odd_inputs.case import Case, Check, Maker, changed, portrait, renamed, written

WALL = (90, 110, 130)
ORIENTATION = 0x0112  # EXIF tag
STORED = {  # how the pixels of an upright picture lie for each orientation
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip


def shown(like: float | None = 4.0, size: tuple[int, int] = portrait().size, face: bool | None = True) -> Check:
    """Assert what is seen.

    Args:
        like: mean difference from the portrait at most, of 255; None for another picture.
        size: (width, height).
        face: whether one is found; None for either.
    """

    def check(rgb: np.ndarray) -> None:
        assert rgb.dtype == np.uint8
        assert (rgb.shape[1], rgb.shape[0]) == size
        if like is not None:
            seen = Image.fromarray(rgb).resize(portrait().size)
            difference = np.abs(np.asarray(seen, float) - np.asarray(portrait(), float)).mean()
            assert difference < like, f"{difference:.1f} of 255 off"
        fitted = fit_portrait(rgb, MINI.areas[0], MINI)
        assert fitted.shape in ((384, 256, 3), (256, 384, 3))
        if face is not None:
            assert (find_face(rgb) is not None) == face

    return check


def saved(name: str, picture: Callable[[], Image.Image] = portrait, **options: object) -> Maker:
    """Save a picture."""

    def make(folder: Path) -> Path:
        picture().save(folder / name, **options)  # type: ignore[arg-type]
        return folder / name

    return make


def turned(orientation: int, name: str) -> Maker:
    """Save the portrait as a camera does that was held in this orientation."""

    def make(folder: Path) -> Path:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        turn = STORED.get(orientation)
        stored = portrait() if turn is None else portrait().transpose(turn)
        stored.save(folder / name, exif=exif, **({"quality": 92} if name.endswith("jpg") else {}))
        return folder / name

    return make


def array(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[], Image.Image]:
    """Make a picture of the portrait's changed pixels."""
    return lambda: Image.fromarray(change(np.asarray(portrait())))


def sixteen(name: str, bits: int = 16) -> Maker:
    """Save 16-bit colour or grey with OpenCV."""

    def make(folder: Path) -> Path:
        import cv2

        rgb = np.asarray(portrait()).astype(np.uint16)
        cv2.imwrite(str(folder / name), (rgb[..., ::-1] * 257) >> (16 - bits))
        return folder / name

    return make


def scene(size: tuple[int, int], at: tuple[int, int], scale: float) -> Callable[[], Image.Image]:
    """Put the face onto a wall."""

    def picture() -> Image.Image:
        face = portrait().crop((60, 60, 450, 620))
        wall = Image.new("RGB", size, WALL)
        wall.paste(face.resize((round(face.width * scale), round(face.height * scale))), at)
        return wall

    return picture


def two_faces() -> Image.Image:
    """A large face and a small one."""
    wall = scene((1600, 900), (150, 100), 1.2)()
    wall.paste(portrait().crop((60, 60, 450, 620)).resize((195, 280)), (1200, 400))
    return wall


def cut_out() -> Image.Image:
    """The portrait before a transparent background."""
    mask = Image.new("L", portrait().size, 0)
    ImageDraw.Draw(mask).rectangle((0, 0, *portrait().size), fill=255)
    picture = portrait().copy()
    picture.putalpha(mask)
    return picture


def sunglasses() -> Image.Image:
    """The portrait with dark glasses."""
    picture = portrait().copy()
    ImageDraw.Draw(picture).ellipse((155, 240, 360, 320), fill=(5, 5, 5))
    return picture


def wide_colours(mode: str, name: str) -> Maker:
    """Save the portrait in a colour space with swapped primaries and its profile: ignoring it shows."""

    def make(folder: Path) -> Path:
        swapped = Image.merge("RGB", portrait().split()[::-1])
        profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
        red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
        profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
        picture = swapped.convert("RGBA") if mode == "RGBA" else swapped
        picture = picture.quantize(256) if mode == "P" else picture
        picture.save(folder / name, icc_profile=bytes(profile))
        return folder / name

    return make


def half(maker: Maker) -> Maker:
    """Cut a file in the middle."""
    return changed(maker, lambda data: data[: len(data) // 2])


def gif(count: int) -> list[Image.Image]:
    """Further frames of a moving picture."""
    return [portrait().transpose(Image.Transpose.FLIP_LEFT_RIGHT)] * count


def postscript() -> bytes:
    """A program that would draw a picture."""
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\nshowpage\n"


def heic(*properties: tuple[bytes, bytes], turns: int = 0) -> bytes:
    """The portrait as a phone saves it: in tiles, its pixels turned clockwise."""
    entries = tiled(np.rot90(np.asarray(portrait()), -turns), 256)
    entries[1].properties += [(b"irot", bytes([turns])), *properties]
    return heif(entries)


def huge_heic() -> bytes:
    """The same with a size that it has not."""
    return heic().replace(size(*portrait().size)[1], size(50_000, 50_000)[1])


MOVING = {"save_all": True, "append_images": gif(2)}
JPEG = saved("a.jpg", quality=92)
GREY = 40.0  # mean difference of a picture without colours
READ: list[tuple[str, Maker, Check]] = [
    ("HEIC", written("a.heic", heic()), shown(5.0)),
    ("turned HEIC named JPEG", written("IMG_1.JPG", heic(turns=3)), shown(5.0)),
    ("PNG", saved("a.png"), shown(0.01)),
    ("JPEG", JPEG, shown()),
    ("progressive JPEG", saved("a.jpg", progressive=True), shown()),
    ("WebP", saved("a.webp"), shown()),
    ("GIF", saved("a.gif"), shown(6.0)),
    ("moving GIF", saved("a.gif", **MOVING), shown(6.0)),
    ("moving WebP", saved("a.webp", **MOVING), shown()),
    ("moving PNG", saved("a.png", **MOVING), shown(0.01)),
    ("BMP", saved("a.bmp"), shown(0.01)),
    ("TIFF", saved("a.tif"), shown(0.01)),
    ("TIFF with LZW", saved("a.tif", compression="tiff_lzw"), shown(0.01)),
    ("PPM", saved("a.ppm"), shown(0.01)),
    ("TGA", saved("a.tga"), shown(0.01)),
    ("icon", saved("a.ico", sizes=[(256, 256)]), shown(12.0, (171, 256))),
    ("PNG named JPEG", renamed(saved("a.png"), "png.jpg"), shown(0.01)),
    ("WebP named PNG", renamed(saved("a.webp"), "webp.png"), shown()),
    ("no suffix", renamed(JPEG, "picture"), shown()),
    ("junk behind a JPEG", changed(JPEG, lambda data: data + bytes(100_000)), shown()),
    *((f"orientation {o} in JPEG", turned(o, "a.jpg"), shown()) for o in STORED),
    *((f"orientation 6 in {kind}", turned(6, f"a.{kind}"), shown()) for kind in ("png", "webp", "tif")),
    ("orientation 0, which is none", turned(0, "a.jpg"), shown()),
    ("grey", saved("a.jpg", lambda: portrait().convert("L")), shown(GREY)),
    ("black and white", saved("a.png", lambda: portrait().convert("1")), shown(None, face=None)),
    ("palette", saved("a.png", lambda: portrait().quantize(64)), shown(6.0)),
    ("palette with a transparent colour", saved("a.png", lambda: portrait().quantize(64), transparency=0), shown(9.0)),
    ("CMYK JPEG", saved("a.jpg", lambda: portrait().convert("CMYK"), quality=92), shown()),
    ("CMYK TIFF", saved("a.tif", lambda: portrait().convert("CMYK")), shown()),
    ("LAB TIFF", saved("a.tif", lambda: portrait().convert("LAB")), shown()),
    ("16 bit grey", saved("a.png", array(lambda a: a.mean(-1).astype(np.uint16) * 257)), shown(GREY)),
    ("12 bit grey in 16", saved("a.png", array(lambda a: a.mean(-1).astype(np.uint16) * 16)), shown(GREY)),
    ("float grey", saved("a.tif", array(lambda a: (a.mean(-1) / 255).astype(np.float32))), shown(GREY)),
    ("16 bit colour PNG", sixteen("a.png"), shown(1.0)),
    ("16 bit colour TIFF", sixteen("a.tif"), shown(1.0)),
    ("transparency", saved("a.png", cut_out), shown(0.01)),
    ("transparency in WebP", saved("a.webp", cut_out), shown()),
    ("all transparent", saved("a.png", array(lambda a: np.dstack([a, 0 * a[..., 0]]))), shown(None, face=False)),
    ("wide colours", wide_colours("RGB", "a.png"), shown()),
    ("wide colours with transparency", wide_colours("RGBA", "a.png"), shown()),
    ("wide colours with a palette", wide_colours("P", "a.png"), shown(6.0)),
    ("smallest", saved("a.png", lambda: portrait().resize((64, 96))), shown(12.0, (64, 96))),
    ("54 megapixels", saved("a.jpg", lambda: portrait().resize((6000, 9000)), quality=60), shown(5.0, (3000, 4500))),
    ("a strip", saved("a.png", lambda: portrait().resize((64, 4000))), shown(None, (64, 4000), None)),
    ("face at the right edge", saved("a.jpg", scene((1920, 1080), (1400, 80), 0.9)), shown(None, (1920, 1080))),
    ("face cut at the left", saved("a.jpg", scene((1920, 1080), (-120, 80), 1.4)), shown(None, (1920, 1080))),
    ("small face", saved("a.jpg", scene((4000, 3000), (1900, 1300), 0.15)), shown(None, (4000, 3000))),
    ("two faces", saved("a.jpg", two_faces), shown(None, (1600, 900))),
    ("no face, a wall", saved("a.png", lambda: Image.new("RGB", (1280, 720), WALL)), shown(None, (1280, 720), False)),
    ("no face, noise", saved("a.png", lambda: Image.effect_noise((500, 500), 80).convert("RGB")),
     shown(None, (500, 500), False)),
    ("sunglasses", saved("a.png", sunglasses), shown(12.0)),
    ("tilted head", saved("a.jpg", lambda: portrait().rotate(30, fillcolor=WALL)), shown(None)),
    ("very dark", saved("a.png", array(lambda a: (a * 0.1).astype(np.uint8))), shown(None, face=None)),
    ("blurred", saved("a.png", lambda: portrait().filter(ImageFilter.GaussianBlur(6))), shown(12.0)),
    ("drawing", saved("a.png", lambda: ImageOps.posterize(portrait(), 3)), shown(30.0)),
]  # fmt: skip
SAID = [
    ("lying on its side", saved("a.jpg", lambda: portrait().rotate(90, expand=True)), shown(), "lies on its side"),
    ("upside down", saved("a.jpg", lambda: portrait().rotate(180)), shown(), "upside down"),
]
REFUSED = [
    ("empty", written("a.png", b""), "empty"),
    ("page of a server", written("a.png", b"<html>"), "no picture"),
    ("SVG", written("a.svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="100" height="100"/>'), "no picture"),
    ("program named JPEG", written("portrait.jpg", postscript()), "no picture"),
    ("PDF", written("a.pdf", b"%PDF-1.4\n1 0 obj\n"), "no picture"),
    ("half a JPEG", half(JPEG), "cut off"),
    ("half a PNG", half(saved("a.png")), "cut off"),
    ("half a WebP", half(saved("a.webp")), "cut off|no picture"),
    ("half a HEIC", written("a.heic", heic()[:20_000]), "cut off"),
    (
        "HEIC of 2500 megapixels",
        written("a.heic", heic().replace(size(512, 768)[1], size(50_000, 50_000)[1])),
        "too large",
    ),
    ("too small", saved("a.png", lambda: portrait().resize((40, 60))), "too small"),
    ("216 megapixels", saved("a.png", lambda: Image.new("L", (12_000, 18_000))), "too many pixels|too large"),
    ("too long", saved("a.png", lambda: Image.new("L", (64, 17_000))), "too large"),
]
OPTIONAL = [
    *([("AVIF", saved("a.avif"), shown(5.0))] if features.check("avif") else []),
    *([("JPEG 2000", saved("a.jp2"), shown())] if features.check("jpg_2000") else []),
]
CASES = [
    *(Case(name=name, make=make, check=check) for name, make, check in (*READ, *OPTIONAL)),
    *(Case(name=name, make=make, check=check, words=words) for name, make, check, words in SAID),
    *(Case(name=name, make=make, words=words) for name, make, words in REFUSED),
]
