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


@pytest.mark.parametrize("colour", [pytest.param((240, 240, 240), id="white"), pytest.param((60, 160, 60), id="green")])
def test_a_foreign_colour_on_the_chin_is_seen(colour: tuple[int, int, int], portrait: np.ndarray, face: Face) -> None:
    own, painted = skin.read_skin_colour(portrait, face), portrait.copy()
    assert skin.tints(own, own) == pytest.approx(0, abs=0.01)
    x, y = np.round(face.points[200]).astype(int)  # between lips and chin
    reach = int(0.2 * face.eye_distance)
    painted[y - reach // 2 : y + reach // 2, x - reach : x + reach] = colour
    assert skin.tints(skin.read_skin_colour(painted, face), own) > 16


def test_a_light_that_falls_on_all_of_the_skin_is_no_foreign_colour(portrait: np.ndarray, face: Face) -> None:
    own = skin.read_skin_colour(portrait, face)
    for gain in ((1.1, 1.0, 0.9), (0.6, 0.6, 0.6)):
        lit = np.clip(portrait * np.array(gain), 0, 255).astype(np.uint8)
        assert skin.tints(skin.read_skin_colour(lit, face), own) < 13
