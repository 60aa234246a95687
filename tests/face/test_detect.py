"""The detector finds the eyes of the sample portrait, at any size, and nothing in noise or without its model."""

import logging

import numpy as np
import pytest
from PIL import Image

from liveavatar.face import models
from liveavatar.face.detect import find_face
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
