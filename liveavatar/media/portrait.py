"""Portrait input: any picture becomes 8-bit sRGB, cropped to the framing of the training data.

`load_portrait` reads a picture or refuses it in one line. `fit_portrait` picks the video's size from the picture's
shape, crops to it and never leaves black bars. For `mini` the crop is placed by the face when one is detected: its
training pictures all show head and shoulders with the eyes in one place, so a full-length picture must be cut to that.
"""

import io
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from liveavatar.config import ANY_SIZE, FRAME_CENTRE, ModelConfig
from liveavatar.errors import InputError
from liveavatar.face.detect import FaceBox, find_face
from liveavatar.media.sizes import released_size

log = logging.getLogger(__name__)

MIN_SIDE = 64  # pixels
MAX_SIDE = 16_384
MAX_PIXELS = 100_000_000
MAX_ENLARGEMENT = 2.0  # beyond this a face crop would be a blur; the crop is then widened

# Where the corpus has its eyes (training/corpus/clips.py) as the detector sees them, in shares of the picture's height
EYE_DISTANCE, WIDE_EYE_DISTANCE = 0.149, 0.227  # in tall pictures, in wide ones
EYE_HEIGHT, WIDE_EYE_HEIGHT = 0.358, 0.409  # from the top
_CLOSE_ENOUGH = 1.06  # factor of the eye distance within which a plain crop is left alone
_NEAR_ENOUGH = 0.02  # of the height, how far the eyes may then be from their place
_UPPER_BIAS = 0.25  # where a crop lies in the spare height when no face was found: 0 top, 0.5 centre


def load_portrait(path: str | Path) -> np.ndarray:
    """Read a picture: turned as its EXIF data says, transparency over white, grey and CMYK as RGB, first frame only.

    Returns:
        uint8 sRGB [H, W, 3].

    Raises:
        InputError: missing, a directory, empty, not a picture, cut off, or of a size outside 64 px .. 16384 px and
            100 megapixels.
    """
    source = Path(path)
    if not source.exists():
        raise InputError(f"{source}: there is no such file; check the path given with --image")
    if not source.is_file():
        raise InputError(f"{source}: it is no regular file (perhaps a directory); give a picture")
    with _reading(source), Image.open(source) as picture:
        _check_size(source, *picture.size)
        picture.load()
        return np.ascontiguousarray(np.asarray(_to_rgb(ImageOps.exif_transpose(picture))))


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
    except Image.DecompressionBombError as e:
        raise InputError(f"{source}: it has too many pixels; {_limits()}") from e
    except UnidentifiedImageError as e:
        raise InputError(f"{source}: it is no picture that can be read; give JPEG, PNG, WebP, GIF, BMP or TIFF") from e
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as e:
        raise InputError(f"{source}: it is cut off or damaged ({e}); export or copy it again") from e


def _limits() -> str:
    return f"scale it to sides of {MIN_SIDE} to {MAX_SIDE} px and at most {MAX_PIXELS // 10**6} megapixels"


def _check_size(source: Path, width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        kind = "small" if min(width, height) < MIN_SIDE else "large"
        raise InputError(f"{source}: {width}x{height} px is too {kind}; {_limits()}")


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        return Image.fromarray(_to_8_bit(np.asarray(picture))).convert("RGB")
    picture = _to_srgb(picture)
    if picture.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return picture.convert("RGB")


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """Convert grey of 16 bits (also as 32-bit integers), or floats 0..1 or 0..255, to uint8."""
    grey = np.nan_to_num(values.astype(np.float64))
    if np.issubdtype(values.dtype, np.integer):
        scale = 255 / 65535 if grey.max(initial=0) > 255 else 1.0
    else:
        scale = 255.0 if grey.max(initial=0) <= 1.0 else 1.0
    return np.clip(np.rint(grey * scale), 0, 255).astype(np.uint8)


def _to_srgb(picture: Image.Image) -> Image.Image:
    """Apply an embedded colour profile to RGB and CMYK pictures; one that is broken is ignored, as browsers do."""
    profile = picture.info.get("icc_profile")
    if not profile or picture.mode not in ("RGB", "CMYK"):
        return picture
    try:
        converted = ImageCms.profileToProfile(
            picture, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError) as e:
        log.info("the picture's colour profile cannot be used: %s", e)
        return picture
    return converted or picture


def target_size(width: int, height: int, size: tuple[int, int], cfg: ModelConfig) -> tuple[int, int]:
    """Choose the video's (width, height) for a picture of this shape.

    Args:
        size: (width, height) of `--size`; only the product counts.

    Raises:
        InputError: when the model was not trained for that area.
    """
    area = size[0] * size[1]
    areas = sorted({w * h for w, h in cfg.areas})
    if cfg.size_rule == ANY_SIZE:
        if not areas[0] <= area <= areas[-1]:
            raise _unknown_size(size, cfg)
        return released_size(width, height, area)
    shapes = [(w, h) for w, h in cfg.areas if w * h == area]
    if not shapes:
        raise _unknown_size(size, cfg)
    upright = [(w, h) for w, h in shapes if (w > h) == (width > height)]
    return (upright or shapes)[0]


def _unknown_size(size: tuple[int, int], cfg: ModelConfig) -> InputError:
    offered = ", ".join(f"{w}*{h}" for w, h in cfg.areas)
    return InputError(f"--size {size[0]}*{size[1]}: {cfg.name} was not trained for it; choose one of {offered}")


def fit_portrait(rgb: np.ndarray, size: tuple[int, int], cfg: ModelConfig) -> np.ndarray:
    """Crop and scale a picture to the video's size.

    Args:
        rgb: uint8 [H, W, 3].
        size: (width, height) of `--size`; only the product counts.
        cfg: of the model; `mini` frames the face, the 14B keeps the centre of the picture.

    Returns:
        uint8 [height, width, 3], without bars.

    Raises:
        InputError: when the model was not trained for that area.
    """
    height, width = rgb.shape[:2]
    out_w, out_h = target_size(width, height, size, cfg)
    if cfg.framing == FRAME_CENTRE:
        return _cover(rgb, out_w, out_h)
    box = crop_box(width, height, out_w, out_h, find_face(rgb))
    if box[2] - box[0] < out_w:
        log.warning("the picture is enlarged %.1f times; a larger one looks sharper", out_w / (box[2] - box[0]))
    resized = Image.fromarray(rgb).resize((out_w, out_h), Image.Resampling.LANCZOS, box)
    return np.ascontiguousarray(np.asarray(resized))


def _cover(rgb: np.ndarray, out_w: int, out_h: int) -> np.ndarray:
    """Scale to cover the size and crop the centre; equals the released crop wherever that leaves no bars."""
    height, width = rgb.shape[:2]
    scaled = (out_w, int(out_w * height / width)) if out_w * height >= out_h * width else (
        int(out_h * width / height), out_h,
    )  # fmt: skip
    scaled = (max(out_w, scaled[0]), max(out_h, scaled[1]))
    picture = Image.fromarray(rgb)
    if scaled != (width, height):
        picture = picture.resize(scaled, Image.Resampling.BILINEAR)
    left, top = round((scaled[0] - out_w) / 2.0), round((scaled[1] - out_h) / 2.0)
    return np.ascontiguousarray(np.asarray(picture)[top : top + out_h, left : left + out_w])


def crop_box(
    width: int, height: int, out_w: int, out_h: int, face: FaceBox | None
) -> tuple[float, float, float, float]:  # fmt: skip
    """Choose the crop of a picture: (left, top, right, bottom) in pixels, of the aspect out_w / out_h.

    Without a face it is the largest such part, a little above the centre. With one it is that part too, if the eyes
    already lie about where training had them; otherwise it puts them there as far as the picture reaches.
    """
    largest = min(float(height), width * out_h / out_w)  # height of the largest part
    if face is None:
        return _box(width, height, largest, out_w / out_h, (width / 2, None))
    plain = _box(width, height, largest, out_w / out_h, (width / 2, None))
    eyes = (WIDE_EYE_DISTANCE, WIDE_EYE_HEIGHT) if out_w > out_h else (EYE_DISTANCE, EYE_HEIGHT)
    if _framed(face, plain, eyes):
        return plain
    height_for_eyes = max(face.eye_distance / eyes[0], out_h / MAX_ENLARGEMENT)
    part = min(largest, height_for_eyes)
    return _box(width, height, part, out_w / out_h, (face.eye_x, face.eye_y - eyes[1] * part))


def _box(
    width: int, height: int, part: float, aspect: float, at: tuple[float, float | None]
) -> tuple[float, float, float, float]:  # fmt: skip
    """Place a box of height `part` with its middle at x = at[0] and its top at y = at[1], moved into the picture."""
    spare_w, spare_h = width - part * aspect, height - part
    top = _UPPER_BIAS * spare_h if at[1] is None else at[1]
    left = min(max(0.0, at[0] - part * aspect / 2), max(0.0, spare_w))
    top = min(max(0.0, top), max(0.0, spare_h))
    return left, top, min(float(width), left + part * aspect), min(float(height), top + part)


def _framed(face: FaceBox, box: tuple[float, float, float, float], eyes: tuple[float, float]) -> bool:
    left, top, right, bottom = box
    part = bottom - top
    near = abs(math.log(face.eye_distance / part / eyes[0])) <= math.log(_CLOSE_ENOUGH)
    dx = (face.eye_x - (left + right) / 2) / part
    dy = (face.eye_y - top) / part - eyes[1]
    return near and max(abs(dx), abs(dy)) <= _NEAR_ENOUGH
