"""Framing of a portrait: the model sees the face where training had it, the video keeps the user's picture.

A model that frames the face cannot speak from a head that fills its picture. `frame_portrait` lays the model's frame
around the face, wherever the picture ends: *room* that is missing is continued softly from the picture's border. The
video has the shape and size of the user's picture; `liveavatar.media.paste` puts the rendered face back into it.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from liveavatar.config import FRAME_FACE, ModelConfig
from liveavatar.errors import InputError
from liveavatar.face.detect import FaceBox
from liveavatar.media.lips import Lips, shut_lips
from liveavatar.media.portrait import (
    EYE_DISTANCE,
    EYE_HEIGHT,
    WIDE_EYE_DISTANCE,
    WIDE_EYE_HEIGHT,
    crop_box,
    is_framed,
)
from liveavatar.media.sizes import Box

PORTRAIT, MODEL = "portrait", "model"  # values of --framing
VIDEO_SIDE = 1280  # pixels: longer side of a video without --size
VIDEO_SIDES = (128, 2048)  # of a video with --size: least shorter side, most of the longer one
MOST_ENLARGED = 5.0  # of the picture for the model; a smaller face would be a guess
SOFTEN = (0.02, 0.06)  # blur of added room, in shares of the frame's height: near the picture, far from it


@dataclass(frozen=True, kw_only=True, slots=True)
class Framing:
    """Request of a user: size of the canvas, framing and face."""

    size: tuple[int, int] | None = None  # (width, height) of the canvas, whose area counts; None: the picture's own
    framing: str | None = None  # PORTRAIT or MODEL; None: the model's default
    face: int = 1  # number of the face, the largest first


@dataclass(frozen=True, kw_only=True, slots=True)
class FramedPortrait:
    """A portrait as the model and as the video have it."""

    model: np.ndarray  # uint8 [h, w, 3], the model's picture
    canvas: np.ndarray  # uint8 [H, W, 3], the user's picture at the video's size
    box: Box  # left, top, right, bottom of the model's picture in the canvas, pixels; may lie outside
    eyes: tuple[float, float, float]  # x, y of their middle and their distance, pixels of the model's picture
    room: float  # share of the model's picture that was added
    enlarged: float  # how many times the picture was enlarged for the model
    lips: Lips | None = None  # parted in the canvas, and shut in the model's picture

    def place(self) -> dict[str, Any]:
        """Return where the canvas has the model's picture, its eyes and its parted lips, as JSON holds them."""
        lips = None if self.lips is None else self.lips.to_json()
        return {
            "box": [round(edge, 4) for edge in self.box],
            "eyes": [round(value, 4) for value in self.eyes],
            "lips": lips,
        }

    def with_shut_lips(self, parted: Lips) -> "FramedPortrait":
        """Shut the lips in the model's picture, where they are given in its pixels."""
        zoom = (self.box[2] - self.box[0]) / self.model.shape[1]
        lips = parted.placed(zoom, self.box[0], self.box[1])
        return replace(self, model=shut_lips(self.model, parted), lips=lips)

    @property
    def is_whole(self) -> bool:
        """Tell if the video is the model's picture, pixel for pixel."""
        return self.canvas.shape == self.model.shape and np.array_equal(self.canvas, self.model)


def keeps_picture(framing: str | None, cfg: ModelConfig) -> bool:
    """Tell if the video has the framing of the user's picture; None is the model's default.

    Raises:
        InputError: the model cannot have the framing asked for.
    """
    if framing == PORTRAIT and cfg.framing != FRAME_FACE:
        raise InputError(f"--framing portrait: {cfg.name} renders the whole picture itself; drop it")
    return framing != MODEL and cfg.framing == FRAME_FACE


def choose_face(faces: list[FaceBox], number: int) -> FaceBox | None:
    """Choose a face by its number, from 1; None when there is none at all.

    Raises:
        InputError: there is no such number.
    """
    most = max(1, len(faces))
    if not 1 <= number <= most:
        raise InputError(f"--face {number}: the picture shows {len(faces)}; use a number from 1 to {most}")
    return faces[number - 1] if faces else None


def video_size(width: int, height: int, size: tuple[int, int] | None) -> tuple[int, int]:
    """Choose a video's (width, height): the picture's shape, even sides, never larger than the picture.

    Args:
        width: of the picture.
        height: of the picture.
        size: (width, height) of `--size`, of which the area counts; None for the picture's own size, to `VIDEO_SIDE`.
    """
    wanted = VIDEO_SIDE / max(width, height) if size is None else math.sqrt(size[0] * size[1] / (width * height))
    scale = min(1.0, wanted)
    return _even(width * scale), _even(height * scale)


def _even(side: float) -> int:
    return max(2, math.floor(side + 1e-6) // 2 * 2)


def refuse_video_size(size: tuple[int, int]) -> None:
    """Refuse a `--size` that no video can have.

    Raises:
        InputError: a side is too short or too long.
    """
    if min(size) < VIDEO_SIDES[0] or max(size) > VIDEO_SIDES[1]:
        raise InputError(
            f"--size {size[0]}*{size[1]}: a video has sides from {VIDEO_SIDES[0]} to {VIDEO_SIDES[1]} pixels; "
            "use for example 384*256 or 512*768, or leave --size out for the size of the picture"
        )


def frame_portrait(rgb: np.ndarray, size: tuple[int, int] | None, cfg: ModelConfig, face: FaceBox) -> FramedPortrait:
    """Frame a picture for a model whose training pictures had the face in one place.

    Args:
        rgb: uint8 [H, W, 3].
        size: (width, height) whose area the video has; None for the picture's own size.
        cfg: of the model.
        face: the face to frame.
    """
    assert cfg.framing == FRAME_FACE
    height, width = rgb.shape[:2]
    canvas_w, canvas_h = video_size(width, height, size)
    scale = max(canvas_w / width, canvas_h / height)
    part = (0.0, 0.0, min(width, canvas_w / scale), min(height, canvas_h / scale))
    canvas = rgb if (canvas_w, canvas_h) == (width, height) else _resized(rgb, (canvas_w, canvas_h), part)
    shape, box = _frame(width, height, cfg, face)
    model, box, room = _model_picture(rgb, shape, box)
    left, top, right, bottom = (edge * scale for edge in box)
    zoom = model.shape[0] / (box[3] - box[1])
    return FramedPortrait(
        model=model,
        canvas=np.ascontiguousarray(canvas),
        box=(left, top, right, bottom),
        eyes=((face.eye_x - box[0]) * zoom, (face.eye_y - box[1]) * zoom, face.eye_distance * zoom),
        room=room,
        enlarged=zoom,
    )


def _resized(rgb: np.ndarray, size: tuple[int, int], box: Box) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.LANCZOS, box))


def _frame(width: int, height: int, cfg: ModelConfig, face: FaceBox) -> tuple[tuple[int, int], Box]:
    """Choose the model's (width, height), and where its frame lies in the picture.

    The shape is the picture's where that needs no room, else upright: on twelve photographs the upright one kept more
    of the likeness than the wide one, whichever needed less room.
    """
    upright = min(cfg.areas)
    shape = min(cfg.areas, key=lambda shape: (shape[0] > shape[1]) != (width > height))
    box = _face_frame(width, height, shape, face)
    if _outside(box, width, height) < 1e-6:
        return shape, box
    return upright, _face_frame(width, height, upright, face)


def _face_frame(width: int, height: int, shape: tuple[int, int], face: FaceBox) -> Box:
    out_w, out_h = shape
    inside = crop_box(width, height, out_w, out_h, face)
    distance, eye_height = (WIDE_EYE_DISTANCE, WIDE_EYE_HEIGHT) if out_w > out_h else (EYE_DISTANCE, EYE_HEIGHT)
    if is_framed(face, inside, (distance, eye_height)):
        return inside
    part = max(face.eye_distance / distance, out_h / MOST_ENLARGED)
    across = part * out_w / out_h
    left, top = face.eye_x - across / 2, face.eye_y - eye_height * part
    return left, top, left + across, top + part


def _outside(box: Box, width: int, height: int) -> float:
    """Compute the share of a box that lies outside the picture."""
    left, top, right, bottom = box
    across = max(0.0, min(right, width) - max(left, 0.0))
    down = max(0.0, min(bottom, height) - max(top, 0.0))
    return 1 - across * down / ((right - left) * (bottom - top))


def _model_picture(rgb: np.ndarray, shape: tuple[int, int], box: Box) -> tuple[np.ndarray, Box, float]:
    """Cut the model's picture, with room where the picture ends; the box is moved to whole pixels of it then."""
    height, width = rgb.shape[:2]
    out_w, out_h = shape
    if _outside(box, width, height) < 1e-6:
        return np.ascontiguousarray(_resized(rgb, shape, box)), box, 0.0
    scale = out_h / (box[3] - box[1])
    x0, x1 = _span(box[0], out_w, width, scale)
    y0, y1 = _span(box[1], out_h, height, scale)
    left = -x0 / scale if x0 else box[0]
    top = -y0 / scale if y0 else box[1]
    part = (
        max(0.0, left), max(0.0, top), min(float(width), left + x1 / scale), min(float(height), top + y1 / scale),
    )  # fmt: skip
    inside = _resized(rgb, (x1 - x0, y1 - y0), part)
    model = extend(inside, (x0, y0, out_w - x1, out_h - y1))
    room = 1 - inside.shape[0] * inside.shape[1] / (out_w * out_h)
    return model, (left, top, left + out_w / scale, top + out_h / scale), room


def _span(start: float, length: int, side: int, scale: float) -> tuple[int, int]:
    """Find the first and last pixel of the model's picture that the user's picture covers, on one axis."""
    first = max(0, round(-start * scale))
    origin = -first / scale if first else start
    return first, max(first + 1, min(length, math.floor((side - origin) * scale + 1e-6)))


def extend(rgb: np.ndarray, margins: tuple[int, int, int, int]) -> np.ndarray:
    """Continue a picture beyond its borders, ever softer.

    Border pixels are repeated outwards, so background and shoulders go on; with the distance they blur.

    Args:
        rgb: uint8 [H, W, 3].
        margins: pixels added on the left, top, right and bottom.
    """
    import cv2

    left, top, right, bottom = margins
    canvas = cv2.copyMakeBorder(rgb, top, bottom, left, right, cv2.BORDER_REPLICATE)
    height, width = canvas.shape[:2]
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    dx = np.maximum(np.maximum(left - x, x - (width - 1 - right)), 0)
    dy = np.maximum(np.maximum(top - y, y - (height - 1 - bottom)), 0)
    distance = np.hypot(dx[None], dy[:, None])
    soft = canvas.astype(np.float32)
    reach = 0.0
    for share in SOFTEN:
        sigma = share * height
        blurred = cv2.GaussianBlur(canvas, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE).astype(np.float32)
        weight = np.clip((distance - reach) / (2 * sigma), 0, 1)[..., None]
        soft += weight * (blurred - soft)
        reach = sigma
    result: np.ndarray = np.rint(soft).astype(np.uint8)
    result[top : height - bottom, left : width - right] = rgb
    return result
