"""Picture files: any kind that we promise becomes 8-bit sRGB, in bounded memory; all others are refused in one line.

Only decoders of the listed formats are tried, whatever the file is called: Pillow would otherwise hand a file that says
so to Ghostscript. The size is read from the header first. A picture is decoded once and converted strip by strip; one
of over `KEPT_PIXELS` is reduced on the way.
"""

import io
import logging
import math
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from liveavatar.errors import InputError
from liveavatar.files import exists
from liveavatar.media.heic import AV1, Heic
from liveavatar.media.heif import UnsupportedHeif
from liveavatar.media.jpeg import jpeg_damage
from liveavatar.media.picture_signs import hdr_of, kind_of, lacks_directory, zeroed

log = logging.getLogger(__name__)

MIN_SIDE = 64  # pixels
MAX_SIDE = 16_384
MAX_PIXELS = 100_000_000
KEPT_PIXELS = 20_000_000  # a larger picture is reduced by a whole factor
STRIP_PIXELS = 2_000_000  # converted at a time
PROMISED = "JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC or AVIF"
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO")  # of Pillow
GREY_DEPTHS = (8, 10, 12, 16)  # bits; the least that holds a picture's brightest value is its depth
_FLOAT_TOPS = ((1.5, 1.0), (300.0, 255.0), (66_000.0, 65_535.0))  # brightest value below the first: white is the second
_GAMMA = 1 / 2.2  # of a PNG that says nothing; others have their exponent in the chunk gAMA
_GAMMA_SLACK = 0.05  # share by which a gamma may be off that is written for this one
_ORIENTATION = 0x0112  # EXIF tag
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF tags
_WHITE_IS_ZERO, _UNSIGNED, _SIGNED = 0, 1, 2  # their values
_COLOUR_FACTS = ("icc_profile", "srgb", "gamma")  # as Pillow calls them
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
# Raised by Pillow and its plugins for a file that is damaged
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, RuntimeError, TypeError, ArithmeticError),
    *(AttributeError, AssertionError, struct.error, zlib.error),
)


def read_picture(path: str | Path) -> np.ndarray:
    """Read a picture: turned as its EXIF data says, transparency over white, grey and CMYK as RGB, first frame only.

    Returns:
        uint8 sRGB [H, W, 3]. Over 20 megapixels it is reduced to a half or a third.

    Raises:
        InputError: missing, a directory, empty, not a picture, cut off, or of a size outside 64 px .. 16384 px and
            100 megapixels.
    """
    source = Path(path)
    if not exists(source):
        raise InputError(f"{source}: there is no such file; check its path")
    if not source.is_file():
        raise InputError(f"{source}: it is no regular file (perhaps a directory); give a picture")
    with _reading(source), source.open("rb") as file, _opened(source, file) as picture:
        _check_size(source, *picture.size)
        if picture.format in ("JPEG", "MPO") and (factor := _reduction(picture)) > 1:
            picture.draft(None, (picture.width // factor, picture.height // factor))  # decoded smaller
        picture.load()
        _note_damage(source, file, picture.format in ("JPEG", "MPO"))
        if curve := hdr_of(file):
            log.warning("%s: its colours are HDR (%s) and are read as if they were not, too pale; export it as SDR for "
                        "right ones", source, curve)  # fmt: skip
        grey = _grey_numbers(source, picture)
        bright = _full_range(picture, file)
        return _oriented(_converted(bright, _reduction(bright), grey), picture)


@contextmanager
def _opened(source: Path, file: BinaryIO) -> Iterator[Image.Image]:
    """Open a picture, its size checked; a HEIC is decoded as well."""
    if kind_of(file) == "HEIC":
        heic = Heic(file)
        if heic.kind != AV1:
            _check_size(source, *heic.size)
            yield heic.decode()
            return
    file.seek(0)
    with Image.open(file, formats=FORMATS) as picture:
        yield picture


@contextmanager
def _reading(source: Path) -> Iterator[None]:
    """Convert Pillow's errors for a bad file to one-line InputErrors."""
    try:
        if source.stat().st_size == 0:
            raise InputError(f"{source}: the file is empty (0 bytes); export or copy it again")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limits come right after the header is read
            yield
    except PermissionError as e:
        raise InputError(f"{source}: it may not be read; change its permissions") from e
    except (Image.DecompressionBombError, MemoryError) as e:
        raise InputError(f"{source}: it has too many pixels; {_limits()}") from e
    except UnsupportedHeif as e:
        raise InputError(f"{source}: {e}, a kind of HEIC that cannot be read; save it as JPEG or PNG") from e
    except UnidentifiedImageError as e:
        with source.open("rb") as file:
            kind = kind_of(file)
            cut = kind == "TIFF" and lacks_directory(file)
        if cut:
            raise InputError(f"{source}: it is a TIFF that is cut off; export or copy it again") from e
        if kind == "TIFF":
            raise InputError(f"{source}: it is a TIFF of a kind that cannot be read (its depth, numbers or "
                             "compression are unusual); save it as PNG or JPEG") from e  # fmt: skip
        if kind:
            raise InputError(f"{source}: it begins as {kind} but is cut off, damaged or unusual; export or copy it "
                             "again, or save it as PNG or JPEG") from e  # fmt: skip
        raise InputError(f"{source}: it is no picture that can be read; give {PROMISED}") from e
    except _DAMAGE as e:
        reason = " ".join(str(e).split()) or type(e).__name__
        raise InputError(f"{source}: it is cut off or damaged ({reason}); export or copy it again") from e


def _limits() -> str:
    return f"scale it to sides of {MIN_SIDE} to {MAX_SIDE} px and at most {MAX_PIXELS // 10**6} megapixels"


def _check_size(source: Path, width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        kind = "small" if min(width, height) < MIN_SIDE else "large"
        raise InputError(f"{source}: {width}x{height} px is too {kind}; {_limits()}")


def _note_damage(source: Path, file: BinaryIO, is_jpeg: bool) -> None:
    """Refuse a JPEG of which a part is missing, which decoders fill with grey; warn of what may be damaged."""
    what, missing = (jpeg_damage(file) if is_jpeg else None) or (zeroed(file), False)
    if what is None:
        return
    if missing:
        raise InputError(f"{source}: a part of it is missing or damaged ({what}); export or copy it again")
    log.warning("%s: it may be damaged (%s); look at it, and export or copy it again", source, what)


def _reduction(picture: Image.Image) -> int:
    return math.ceil(math.sqrt(picture.width * picture.height / KEPT_PIXELS))


def _converted(picture: Image.Image, factor: int, grey: "_GreyNumbers | None") -> np.ndarray:
    """Convert a decoded picture to uint8 sRGB [H, W, 3], its sides divided by `factor`, strip by strip."""
    to_rgb = _ToRgb(picture, grey)
    width, height = picture.size
    rgb = np.empty((-(-height // factor), -(-width // factor), 3), np.uint8)
    for top, bottom in _strips(width, height, factor):
        strip = to_rgb(picture.crop((0, top, width, bottom)))
        strip = strip.reduce(factor) if factor > 1 else strip
        rgb[top // factor : top // factor + strip.height] = np.asarray(strip)
    return rgb


def _full_range(picture: Image.Image, file: BinaryIO) -> Image.Image:
    """Return a decoded picture with its colours in full range.

    Pillow keeps the upper byte of colours of 16 bits, which says nearly nothing where they hold 12 bits or fewer.
    """
    bands = [band for band in picture.getbands() if band != "A"]
    if len(picture.getbands()) == 1 or not _is_16_bit(picture, file):
        return picture
    if max(np.asarray(picture.getchannel(band)).max() for band in bands) >= 2 ** (GREY_DEPTHS[-2] - 8):
        return picture
    import cv2

    file.seek(0)
    pixels = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        return picture
    rgb = np.empty(pixels.shape, np.uint8)
    for to, band in enumerate((2, 1, 0, 3)[: pixels.shape[2]]):
        highest = int(pixels[..., :3].max() if to < 3 else pixels[..., band].max())
        depth = next(bits for bits in GREY_DEPTHS if highest < 2**bits)
        rgb[..., to] = np.rint(pixels[..., band] * np.float32(255 / (2**depth - 1)))
    bright = Image.fromarray(rgb)
    bright.info = {name: value for name, value in picture.info.items() if name in _COLOUR_FACTS}
    return bright


def _is_16_bit(picture: Image.Image, file: BinaryIO) -> bool:
    if isinstance(picture, TiffImageFile):
        return 16 in np.atleast_1d(picture.tag_v2.get(_BITS_PER_SAMPLE, 8))
    file.seek(0)
    return picture.format == "PNG" and file.read(25)[24:] == b"\x10"


def _strips(width: int, height: int, factor: int = 1) -> Iterator[tuple[int, int]]:
    rows = max(1, STRIP_PIXELS // (width * factor)) * factor
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def _oriented(rgb: np.ndarray, picture: Image.Image) -> np.ndarray:
    """Turn and mirror pixels as the picture's EXIF data says; broken EXIF data is ignored, as browsers do."""
    try:
        turn = _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    except _DAMAGE as e:
        log.info("the picture's EXIF data cannot be read: %s", e)
        return rgb
    return rgb if turn is None else np.ascontiguousarray(np.asarray(Image.fromarray(rgb).transpose(turn)))


class _ToRgb:
    """Conversion of a picture's strips to 8-bit sRGB without transparency."""

    def __init__(self, picture: Image.Image, grey: "_GreyNumbers | None") -> None:
        self.grey = grey
        self.clear: object = None  # grey value that is transparent
        if grey is not None:
            mode = "L"
            self.clear = picture.info.get("transparency")
        elif picture.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in picture.info:
            mode = "RGBA"
        else:
            mode = "RGB" if picture.mode == "P" else picture.mode
        self.mode = mode
        self.transform = _transform(picture.info.get("icc_profile"), mode)
        self.gamma = _gamma_table(picture.info)  # 256 bytes; None where the numbers are as they are shown

    def __call__(self, strip: Image.Image) -> Image.Image:
        if self.grey is not None:
            values = self.grey.values(strip)
            grey = self.grey.scaled(values)
            if isinstance(self.clear, int):
                grey = np.where(values == self.clear, 255, grey)
            strip = Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8))
        elif strip.mode != self.mode:
            strip = strip.convert(self.mode)
        if self.gamma is not None:
            colours = len(strip.getbands()) - (strip.mode == "RGBA")
            strip = strip.point([*self.gamma * colours, *range(256 * (strip.mode == "RGBA"))])
        if self.transform is not None:
            strip = ImageCms.applyTransform(strip, self.transform) or strip
        if strip.mode == "RGBA":
            strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
        return strip.convert("RGB")


@dataclass(frozen=True, kw_only=True, slots=True)
class _GreyNumbers:
    """Meaning of the integers or floats of a grey picture."""

    top: float  # the value of white
    kind: type[np.generic]  # Pillow reads unsigned integers of 32 bits as signed ones
    inverted: bool  # zero is white

    def values(self, strip: Image.Image) -> np.ndarray:
        """Return the numbers of a strip; those that are none become zero."""
        return _numbers(strip, self.kind)

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Return brightness, 0 to 255 within rounding."""
        grey = values * (255 / self.top)
        return 255 - grey if self.inverted else grey


def _numbers(strip: Image.Image, kind: type[np.generic]) -> np.ndarray:
    values = np.asarray(strip)
    if values.dtype.kind == "f":
        return np.nan_to_num(values.astype(np.float64))
    return values.astype(np.int32).view(kind) if values.itemsize == 4 else values


def _grey_numbers(source: Path, picture: Image.Image) -> _GreyNumbers | None:
    """Find out what the numbers of a grey picture mean; None for other pictures.

    The least usual depth that holds the brightest integer is its depth; floats have white at 1, 255 or 65535.
    """
    tags = picture.tag_v2 if isinstance(picture, TiffImageFile) else {}
    form = int(np.atleast_1d(tags.get(_SAMPLE_FORMAT, _UNSIGNED))[0])
    bits = int(np.atleast_1d(tags.get(_BITS_PER_SAMPLE, 16))[0])
    if form == _SIGNED and bits == 8:
        raise InputError(f"{source}: its pixels are signed numbers of 8 bits; save it as PNG or JPEG")
    if not picture.mode.startswith(("I", "F")):
        return None
    kind = np.uint32 if form == _UNSIGNED else np.int32
    lowest, highest = 0.0, 0.0
    for top, bottom in _strips(*picture.size):
        values = _numbers(picture.crop((0, top, picture.width, bottom)), kind)
        lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
    if picture.mode.startswith("F"):
        white = next((white for limit, white in _FLOAT_TOPS if highest < limit), 0.0)
    else:
        depth = bits - (form == _SIGNED)
        white = 2.0 ** next(b for b in (*(b for b in (*GREY_DEPTHS, 24) if b < depth), depth) if highest < 2**b) - 1
    if not white or lowest < -0.1 * white:
        raise InputError(f"{source}: its grey values run from {lowest:.6g} to {highest:.6g}, of which white is not "
                         "known; save it as PNG or JPEG with 8 bits")  # fmt: skip
    return _GreyNumbers(top=white, kind=kind, inverted=tags.get(_PHOTOMETRIC, 1) == _WHITE_IS_ZERO)


def _gamma_table(facts: Mapping[Any, Any]) -> list[int] | None:
    """Make the table of shown brightness by value, for a PNG of another gamma; profiles and sRGB come before it."""
    gamma = facts.get("gamma")
    if not gamma or any(facts.get(name) is not None for name in ("icc_profile", "srgb")):
        return None
    if abs(gamma / _GAMMA - 1) < _GAMMA_SLACK:
        return None
    return [round(255 * (value / 255) ** (_GAMMA / gamma)) for value in range(256)]


def _transform(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Build the conversion from an embedded colour profile; one that is broken is ignored, as browsers do."""
    if not profile or mode not in ("RGB", "RGBA", "CMYK", "L"):
        return None
    try:
        return ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGBA" if mode == "RGBA" else "RGB",
        )
    except (ImageCms.PyCMSError, OSError, ValueError) as e:
        log.info("the picture's colour profile cannot be used: %s", e)
        return None
