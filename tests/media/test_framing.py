"""Framing: eyes come to where training has them, a film keeps the user's picture, added room draws no eye."""

import numpy as np
import pytest

from liveavatar.config import LIVE_AVATAR_14B, MINI
from liveavatar.errors import InputError
from liveavatar.face.detect import FaceBox, find_face
from liveavatar.media.framing import (
    MODEL,
    PORTRAIT,
    FramedPortrait,
    choose_face,
    extend,
    frame_portrait,
    keeps_picture,
    refuse_video_size,
    video_size,
)
from liveavatar.media.picture import read_picture
from liveavatar.media.portrait import EYE_DISTANCE, EYE_HEIGHT, fit_portrait
from liveavatar.paths import REPO_ROOT

SAMPLE = read_picture(REPO_ROOT / "data" / "samples" / "portrait.png")  # framed as in training


def framed(rgb: np.ndarray, size: tuple[int, int] | None = None) -> FramedPortrait:
    face = find_face(rgb)
    assert face is not None
    return frame_portrait(rgb, size, MINI, face)


def test_a_picture_framed_as_in_training_is_taken_as_ever() -> None:
    made = framed(SAMPLE)
    np.testing.assert_array_equal(made.model, fit_portrait(SAMPLE, MINI.default_area, MINI))
    np.testing.assert_array_equal(made.canvas, SAMPLE)
    assert (made.room, made.box) == (0.0, (0.0, 0.0, 512.0, 768.0))
    assert not made.is_whole
    assert framed(SAMPLE, (256, 384)).is_whole, "the film is what the model renders"


@pytest.mark.parametrize(
    "part",
    [
        pytest.param((slice(90, 520), slice(40, 470)), id="square"),
        pytest.param((slice(150, 500), slice(110, 400)), id="passport"),
        pytest.param((slice(60, 768), slice(0, 400)), id="at the right edge"),
    ],
)
def test_a_tight_picture_gets_room(part: tuple[slice, slice]) -> None:
    rgb = np.ascontiguousarray(SAMPLE[part])
    made = framed(rgb)
    assert made.model.shape == (384, 256, 3)
    assert made.room > 0.05
    eyes = find_face(made.model)
    assert eyes is not None
    assert (eyes.eye_x, eyes.eye_y) == pytest.approx((128, 384 * EYE_HEIGHT), abs=5)
    assert eyes.eye_distance == pytest.approx(384 * EYE_DISTANCE, rel=0.08)
    assert made.eyes == pytest.approx((128, 384 * EYE_HEIGHT, 384 * EYE_DISTANCE), abs=2)
    height, width = rgb.shape[:2]
    assert made.canvas.shape == (height // 2 * 2, width // 2 * 2, 3)
    np.testing.assert_array_equal(made.canvas, rgb[: height // 2 * 2, : width // 2 * 2])


def test_a_small_face_in_a_wide_picture_is_framed_alone() -> None:
    rgb = np.full((800, 1600, 3), 120, np.uint8)
    rgb[100:484, 1000:1256] = fit_portrait(SAMPLE, (256, 384), MINI)
    made = framed(rgb, (768, 384))
    eyes = find_face(made.model)
    assert eyes is not None
    assert (made.canvas.shape, made.room) == ((384, 768, 3), 0.0)
    left, top, right, bottom = made.box
    film_eyes = find_face(made.canvas)
    assert film_eyes is not None
    zoom = (right - left) / made.model.shape[1]
    assert (left + zoom * eyes.eye_x, top + zoom * eyes.eye_y) == pytest.approx(
        (film_eyes.eye_x, film_eyes.eye_y), abs=3
    )
    assert (bottom - top) / (right - left) == pytest.approx(made.model.shape[0] / made.model.shape[1])


@pytest.mark.parametrize(
    ("picture", "size", "film"),
    [
        pytest.param((513, 767), None, (512, 766), id="its own, even"),
        pytest.param((3000, 4000), None, (960, 1280), id="a phone's"),
        pytest.param((3000, 4000), (512, 768), (542, 724), id="an area"),
        pytest.param((300, 400), (512, 768), (300, 400), id="never enlarged"),
    ],
)
def test_film_size(picture: tuple[int, int], size: tuple[int, int] | None, film: tuple[int, int]) -> None:
    assert video_size(*picture, size) == film


def test_added_room_leaves_the_picture_and_calms_with_distance() -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    made = extend(rgb, (40, 10, 30, 100))
    assert made.shape == (170, 150, 3)
    np.testing.assert_array_equal(made[10:70, 40:120], rgb)
    near, far = (np.abs(np.diff(made[row, 40:120].astype(int), axis=0)).mean() for row in (72, 160))
    assert far < near / 4


def test_faces_are_chosen_by_number() -> None:
    faces = [FaceBox(eye_x=x, eye_y=0, eye_distance=9, score=0.9) for x in (1, 2)]
    assert choose_face(faces, 2) is faces[1]
    assert choose_face([], 1) is None
    for number in (-1, 0, 3):
        with pytest.raises(InputError, match=f"--face {number}: the picture shows 2; use a number from 1 to 2"):
            choose_face(faces, number)


def test_who_keeps_the_picture() -> None:
    assert keeps_picture(None, MINI)
    assert keeps_picture(PORTRAIT, MINI)
    assert not keeps_picture(MODEL, MINI)
    assert not keeps_picture(None, LIVE_AVATAR_14B)
    with pytest.raises(InputError, match="--framing portrait"):
        keeps_picture(PORTRAIT, LIVE_AVATAR_14B)


@pytest.mark.parametrize("size", [(64, 64), (4096, 512)])
def test_sizes_that_no_film_has(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="sides from 128 to 2048"):
        refuse_video_size(size)
