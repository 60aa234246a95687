"""Portrait input: a picture with its face upright, cropped to the framing of the training data.

`load_portrait` reads a picture or refuses it in one line. `fit_portrait` picks the video's size from the picture's
shape, crops to it and never leaves black bars. For `mini` the crop is placed by the face when one is detected: its
training pictures all show head and shoulders with the eyes in one place, so a full-length picture must be cut to that.
"""

import logging
import math
from pathlib import Path

import numpy as np
from PIL import Image

from liveavatar.config import ANY_SIZE, FRAME_CENTRE, ModelConfig, refuse_size
from liveavatar.face.detect import FaceBox, find_face, upright_turns
from liveavatar.media.picture import read_picture
from liveavatar.media.sizes import Box, released_size

log = logging.getLogger(__name__)

MAX_ENLARGEMENT = 2.0  # beyond this a face crop would be a blur; the crop is then widened

# Where the corpus has its eyes (training/corpus/clips.py) as the detector sees them, in shares of the picture's height
EYE_DISTANCE, WIDE_EYE_DISTANCE = 0.149, 0.227  # in tall pictures, in wide ones
EYE_HEIGHT, WIDE_EYE_HEIGHT = 0.358, 0.409  # from the top
_CLOSE_ENOUGH = 1.06  # factor of the eye distance within which a plain crop is left alone
_NEAR_ENOUGH = 0.02  # of the height, how far the eyes may then be from their place
_UPPER_BIAS = 0.25  # where a crop lies in the spare height when no face was found: 0 top, 0.5 centre


def load_portrait(path: str | Path) -> np.ndarray:
    """Read a picture (`liveavatar.media.picture`); one whose face lies on its side or upside down is turned upright.

    Returns:
        uint8 sRGB [H, W, 3].

    Raises:
        InputError: it is no picture of a size that can be used.
    """
    rgb = read_picture(path)
    turns = upright_turns(rgb)
    if not turns:
        return rgb
    position = "is upside down" if turns == 2 else "lies on its side"
    log.warning(
        "%s: the face %s; the picture is turned upright, %d degrees counterclockwise", path, position, turns * 90
    )
    return np.ascontiguousarray(np.rot90(rgb, turns))


def target_size(width: int, height: int, size: tuple[int, int], cfg: ModelConfig) -> tuple[int, int]:
    """Choose the video's (width, height) for a picture of this shape.

    Args:
        size: (width, height) of `--size`; only the product counts.

    Raises:
        InputError: when the model was not trained for that area.
    """
    refuse_size(cfg, size)
    area = size[0] * size[1]
    if cfg.size_rule == ANY_SIZE:
        return released_size(width, height, area)
    shapes = [(w, h) for w, h in cfg.areas if w * h == area]
    upright = [(w, h) for w, h in shapes if (w > h) == (width > height)]
    return (upright or shapes)[0]


def fit_portrait(
    rgb: np.ndarray, size: tuple[int, int], cfg: ModelConfig, face: FaceBox | None = None
) -> np.ndarray:  # fmt: skip
    """Crop and scale a picture to the video's size.

    Args:
        rgb: uint8 [H, W, 3].
        size: (width, height) of `--size`; only the product counts.
        cfg: of the model; `mini` frames the face, the 14B keeps the centre of the picture.
        face: to frame; None: the main one.

    Returns:
        uint8 [height, width, 3], without bars.

    Raises:
        InputError: when the model was not trained for that area.
    """
    height, width = rgb.shape[:2]
    out_w, out_h = target_size(width, height, size, cfg)
    if cfg.framing == FRAME_CENTRE:
        return _cover(rgb, out_w, out_h)
    box = crop_box(width, height, out_w, out_h, face or find_face(rgb))
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
) -> Box:  # fmt: skip
    """Choose the crop of a picture: (left, top, right, bottom) in pixels, of the aspect out_w / out_h.

    Without a face it is the largest such part, a little above the centre. With one it is that part too, if the eyes
    already lie about where training had them; otherwise it puts them there as far as the picture reaches.
    """
    largest = min(float(height), width * out_h / out_w)  # height of the largest part
    if face is None:
        return _box(width, height, largest, out_w / out_h, (width / 2, None))
    plain = _box(width, height, largest, out_w / out_h, (width / 2, None))
    eyes = (WIDE_EYE_DISTANCE, WIDE_EYE_HEIGHT) if out_w > out_h else (EYE_DISTANCE, EYE_HEIGHT)
    if is_framed(face, plain, eyes):
        return plain
    height_for_eyes = max(face.eye_distance / eyes[0], out_h / MAX_ENLARGEMENT)
    part = min(largest, height_for_eyes)
    return _box(width, height, part, out_w / out_h, (face.eye_x, face.eye_y - eyes[1] * part))


def _box(
    width: int, height: int, part: float, aspect: float, at: tuple[float, float | None]
) -> Box:  # fmt: skip
    """Place a box of height `part` with its middle at x = at[0] and its top at y = at[1], moved into the picture."""
    spare_w, spare_h = width - part * aspect, height - part
    top = _UPPER_BIAS * spare_h if at[1] is None else at[1]
    left = min(max(0.0, at[0] - part * aspect / 2), max(0.0, spare_w))
    top = min(max(0.0, top), max(0.0, spare_h))
    return left, top, min(float(width), left + part * aspect), min(float(height), top + part)


def is_framed(face: FaceBox, box: Box, eyes: tuple[float, float]) -> bool:
    """Tell if a box has the eyes about where training had them.

    Args:
        face: in the picture.
        box: of the crop.
        eyes: distance and height of the eyes in training, in shares of the box's height.
    """
    left, top, right, bottom = box
    part = bottom - top
    near = abs(math.log(face.eye_distance / part / eyes[0])) <= math.log(_CLOSE_ENOUGH)
    dx = (face.eye_x - (left + right) / 2) / part
    dy = (face.eye_y - top) / part - eyes[1]
    return near and max(abs(dx), abs(dy)) <= _NEAR_ENOUGH
