"""Readings of a rendered portrait that was spotted, covered, stretched or turned."""

import cv2
import numpy as np
import pytest

from liveavatar.face.landmarks import Face, FaceTracker
from liveavatar.quality import skin


@pytest.fixture(scope="module")
def face(portrait: np.ndarray) -> Face:
    """The portrait's face."""
    found = FaceTracker().find(portrait)
    assert found is not None
    return found


def cheek(face: Face) -> tuple[int, int]:
    x, y = np.round(face.points[50]).astype(int)
    return int(x), int(y)


def test_a_face_is_like_itself_in_any_even_light(portrait: np.ndarray, face: Face) -> None:
    own = skin.read_upright(portrait, face)
    dim = skin.read_upright((portrait * 0.5).astype(np.uint8), face)
    assert skin.spots(own, own) == pytest.approx(0, abs=0.1)
    assert skin.spots(dim, own) < 2
    assert skin.half_likeness(dim, own) > 0.99
    assert skin.spot_step(own, own) == 0
    assert (skin.stretch(own, own), skin.turn(own)) == (pytest.approx(0), pytest.approx(0, abs=0.1))
    assert own.colour[0] > own.colour[2], "skin is red rather than blue"


def test_a_spot_on_the_cheek_is_seen_when_it_comes_and_while_it_stays(portrait: np.ndarray, face: Face) -> None:
    own, spotted = skin.read_upright(portrait, face), portrait.copy()
    cv2.circle(spotted, cheek(face), int(0.15 * face.eye_distance), (20, 20, 20), -1)
    seen = skin.read_upright(spotted, face)
    assert skin.spots(seen, own) > 30
    assert skin.spot_step(seen, own) > 30


def test_a_covered_half_is_unlike(portrait: np.ndarray, face: Face) -> None:
    own, covered = skin.read_upright(portrait, face), portrait.copy()
    covered[:, : int(face.points[4, 0])] = 110
    assert skin.half_likeness(skin.read_upright(covered, face), own) < 0.5


@pytest.mark.parametrize("factor", [0.87, 1.15])
def test_a_stretched_face_is_as_much_wider(factor: float, portrait: np.ndarray, face: Face) -> None:
    own = skin.read_upright(portrait, face)
    wide = Face((face.points * np.array([factor, 1])).astype(np.float32), 1.0)
    rgb = cv2.resize(portrait, None, fx=factor, fy=1)
    assert skin.stretch(skin.read_upright(rgb, wide), own) == pytest.approx(np.log(factor), abs=0.01)
