"""Lips and lids of a face: where they are drawn, when lids show, and what stands in where no face can be read."""

import cv2
import numpy as np
import pytest

from liveavatar.face import models
from liveavatar.face.landmarks import INNER_LIPS, LIDS, Face, FaceTracker
from liveavatar.media.speaking_parts import SpeakingParts
from tests.puppet import Puppet


@pytest.fixture(scope="module")
def face(puppet: Puppet) -> Face:
    found = FaceTracker(threads=1).find(puppet.rgb)
    assert found is not None
    return found


def unmoved(rgb: np.ndarray) -> np.ndarray:
    height, width = rgb.shape[:2]
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)


def at(mask: np.ndarray, point: np.ndarray) -> float:
    x, y = np.rint(point).astype(int)
    return float(mask[y, x])


def blinking(rgb: np.ndarray, face: Face) -> np.ndarray:
    """Cover the eyes with the skin above them."""
    shut = rgb.copy()
    for pairs in (LIDS[:3], LIDS[3:]):
        points = face.points[[point for pair in pairs for point in pair]]
        (x0, y0), (x1, y1) = points.min(0), points.max(0)
        wide, tall = x1 - x0, y1 - y0
        rows = slice(int(y0 - tall), int(y1 + 1))
        columns = slice(int(x0 - wide), int(x1 + wide))
        skin = rgb[int(y1 + 1.2 * tall), columns]
        shut[rows, columns] = skin[None]
        cv2.line(shut, (int(x0 - wide), int(y1)), (int(x1 + wide), int(y1)), (60, 40, 35), 2)
    return shut


def test_lips_are_drawn_and_open_eyes_are_not(puppet: Puppet, face: Face) -> None:
    lips, lids = SpeakingParts(puppet.rgb, np.zeros(puppet.rgb.shape[:2], np.float32)).look(
        puppet.rgb, unmoved(puppet.rgb)
    )
    assert at(lips, face.points[INNER_LIPS[0][0]]) > 0.9
    assert all(at(lips, face.points[eye[0]]) == 0 for eye in LIDS)
    assert lids.max() == 0
    assert lips.mean() < 0.05


def test_lips_are_drawn_where_the_frame_has_them(puppet: Puppet, face: Face) -> None:
    parts = SpeakingParts(puppet.rgb, np.zeros(puppet.rgb.shape[:2], np.float32))
    rest, _ = parts.look(puppet.rgb, unmoved(puppet.rgb))
    opened, _ = parts.look(puppet.frame(0.28), unmoved(puppet.rgb))
    assert opened.sum() > 1.2 * rest.sum()
    assert (opened >= rest - 0.35).all(), "where the still has them, too"


def test_shut_lids_are_drawn(puppet: Puppet, face: Face) -> None:
    parts = SpeakingParts(puppet.rgb, np.zeros(puppet.rgb.shape[:2], np.float32))
    _, lids = parts.look(blinking(puppet.rgb, face), unmoved(puppet.rgb))
    assert all(at(lids, face.points[list(eye)].mean(0)) > 0.5 for eye in LIDS)
    assert at(lids, face.points[INNER_LIPS[0][0]]) == 0


@pytest.mark.parametrize("why", ["no face", "no model"])
def test_without_landmarks_the_given_mouth_moves_and_lids_stay_open(
    why: str, puppet: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "no model":
        monkeypatch.setattr(FaceTracker, "__init__", missing)
    rgb = puppet.rgb if why == "no model" else np.full_like(puppet.rgb, 90)
    mouth = np.zeros(rgb.shape[:2], np.float32)
    mouth[40:60, 30:50] = 1
    lips, lids = SpeakingParts(rgb, mouth).look(rgb, unmoved(rgb) + np.float32([5, 0]))
    np.testing.assert_array_equal(lips[:, :-5], np.roll(mouth, -5, 1)[:, :-5])
    assert lids.max() == 0


def missing(*_: object, **__: object) -> None:
    raise models.FaceModelUnavailable("no landmarks")
