"""The detector finds the eyes of the sample portrait, at any size and any way up; nothing in noise."""

import logging

import numpy as np
import pytest
from PIL import Image

from liveavatar.face import models
from liveavatar.face.detect import find_face, upright_turns
from liveavatar.face.landmarks import LEFT_EYE, RIGHT_EYE, FaceTracker
from liveavatar.paths import REPO_ROOT

PORTRAIT = Image.open(REPO_ROOT / "data" / "samples" / "portrait.png").convert("RGB")


@pytest.mark.parametrize("scale", [pytest.param(0.5, id="small"), pytest.param(1.0, id="as it is")])
def test_the_eyes_are_where_the_landmarks_have_them(scale: float) -> None:
    rgb = np.asarray(PORTRAIT.resize((round(PORTRAIT.width * scale), round(PORTRAIT.height * scale))))
    found, face = find_face(rgb), FaceTracker(1).find(rgb)
    assert found is not None
    assert face is not None
    right, left = face.points[list(RIGHT_EYE)].mean(0), face.points[list(LEFT_EYE)].mean(0)
    distance = float(np.hypot(*(left - right)))
    assert (found.eye_x, found.eye_y) == pytest.approx(((left + right) / 2).tolist(), abs=0.1 * distance)
    assert found.eye_distance == pytest.approx(distance, rel=0.15)


def test_no_face_in_noise() -> None:
    assert find_face(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)) is None


def test_a_damaged_detector_is_not_used(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(models, "DETECTOR_SHA256", "0" * 64)
    with caplog.at_level(logging.INFO):
        assert find_face(np.asarray(PORTRAIT)) is None
    assert "damaged" in caplog.text


@pytest.mark.parametrize(
    ("size", "corner"),
    [
        pytest.param((4000, 3000), (1900, 1300), id="12 megapixels"),
        pytest.param((3000, 4000), (2930, 3900), id="at the corner"),
        pytest.param((3900, 2900), (2160, 1000), id="across two parts"),
    ],
)
def test_a_face_of_58_pixels_is_found(size: tuple[int, int], corner: tuple[int, int]) -> None:
    face = PORTRAIT.crop((60, 60, 450, 620)).resize((58, 84), Image.Resampling.LANCZOS)
    scene = Image.new("RGB", size, (90, 110, 130))
    scene.paste(face, corner)
    found = find_face(np.asarray(scene))
    assert found is not None
    original = find_face(np.asarray(PORTRAIT))
    assert original is not None
    expected = (np.array([original.eye_x, original.eye_y]) - 60) * 58 / 390 + corner
    assert (found.eye_x, found.eye_y) == pytest.approx(expected.tolist(), abs=6)
    assert found.eye_distance == pytest.approx(original.eye_distance * 58 / 390, rel=0.2)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_the_way_up(turns: int) -> None:
    rgb = np.asarray(PORTRAIT)
    assert upright_turns(np.ascontiguousarray(np.rot90(rgb, -turns))) == turns


def test_a_picture_without_a_face_is_not_turned() -> None:
    assert upright_turns(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)) == 0


@pytest.mark.parametrize("degrees", [-35, -15, 15, 35])
def test_a_tilted_head_is_not_turned(degrees: int) -> None:
    assert upright_turns(np.asarray(PORTRAIT.rotate(degrees, fillcolor=(90, 110, 130)))) == 0
