"""Faces lie in pictures of the corpus where cropped portraits have them."""

import numpy as np
import pytest
import torch

from liveavatar.training.corpus.head.geometry import HeadAssets
from liveavatar.training.corpus.render.framing import draw_camera, eye_centres, framing

EYES = np.array([[-3.1, 3.6, 8.0], [3.1, 3.6, 8.0]])
SIZES = [pytest.param(384, 256, 138 / 384, 59.5, id="tall"), pytest.param(256, 384, 106 / 256, 59.5, id="wide")]


@pytest.mark.parametrize(("height", "width", "eye_height", "distance"), SIZES)
def test_eyes_have_their_place_and_distance(height: int, width: int, eye_height: float, distance: float) -> None:
    for scale in (1, 2):  # of the picture
        camera = framing(EYES, scale * height, scale * width)
        right, left = camera.project(torch.as_tensor(EYES, dtype=torch.float32)).numpy()
        assert left[0] - right[0] == pytest.approx(scale * distance, rel=1e-4)
        assert (left[0] + right[0]) / 2 == pytest.approx(scale * width / 2, abs=1e-2)
        assert left[1] == pytest.approx(scale * height * eye_height, abs=1e-2)


def test_scale_and_offset_move_the_face_to_the_right_and_up() -> None:
    camera = framing(EYES, 384, 256, scale=1.2, offset=(0.05, 0.1))
    right, left = camera.project(torch.as_tensor(EYES, dtype=torch.float32)).numpy()
    assert left[0] - right[0] == pytest.approx(1.2 * 59.5, rel=1e-4)
    assert (left[0] + right[0]) / 2 == pytest.approx(128 + 0.05 * 384, abs=1e-2)
    assert left[1] == pytest.approx(138 - 0.1 * 384, abs=1e-2)


def test_errors_of_framing_are_small_but_for_tight_portraits() -> None:
    plain = framing(EYES, 384, 256).zoom
    zooms = np.array([draw_camera(np.random.default_rng(s), EYES, 384, 256).zoom for s in range(400)]) / plain
    tight = zooms > 1.25
    assert 0.02 < tight.mean() < 0.12
    assert zooms.max() <= 1.3
    assert np.median(zooms) == pytest.approx(1, abs=0.03)
    again = draw_camera(np.random.default_rng(7), EYES, 384, 256)
    assert again == draw_camera(np.random.default_rng(7), EYES, 384, 256)


def test_eye_centres_are_the_subjects_right_and_left(assets: HeadAssets) -> None:
    right, left = eye_centres(assets, assets.vertices)
    assert right[0] < -2
    assert left[0] > 2
    assert right[1] == pytest.approx(left[1], abs=0.1)
