"""Lips: a parted mouth shuts, by any share, and nothing around it moves."""

import cv2
import numpy as np
import pytest

from liveavatar.face.landmarks import FaceTracker
from liveavatar.media.lips import Lips, shut_lips
from liveavatar.media.picture import read_picture
from liveavatar.paths import REPO_ROOT

EYE_DISTANCE = 60.0
MOUTH = (80.0, 100.0)  # x and y of its middle
HALF_WIDTH, HALF_GAP = 20.0, 5.0
TEETH = (255, 255, 255)


def parted(turned: float = 0.0) -> tuple[np.ndarray, Lips]:
    """Draw white teeth between red lips on grey skin; the picture is turned by degrees around its mouth."""
    rgb = np.full((200, 160, 3), 128, np.uint8)
    cv2.ellipse(rgb, (80, 100), (26, 13), 0, 0, 360, (180, 60, 60), -1)
    across = np.linspace(-1, 1, 11)
    edges = [
        np.stack([MOUTH[0] + HALF_WIDTH * across, MOUTH[1] + side * HALF_GAP * (1 - across**2)], 1) for side in (-1, 1)
    ]
    cv2.fillPoly(rgb, [np.rint(np.concatenate([edges[0], edges[1][::-1]])).astype(np.int32)], TEETH)
    turn = cv2.getRotationMatrix2D(MOUTH, turned, 1.0)
    rgb = cv2.warpAffine(rgb, turn, (160, 200), borderMode=cv2.BORDER_REPLICATE)
    upper, lower = (tuple((float(x), float(y)) for x, y in edge @ turn[:, :2].T + turn[:, 2]) for edge in edges)
    return rgb, Lips(upper, lower, EYE_DISTANCE)


def teeth(rgb: np.ndarray) -> int:
    """Count pixels that are nearly white."""
    return int((rgb.min(-1) > 215).sum())


@pytest.mark.parametrize("turned", [0.0, 25.0, -25.0])
def test_teeth_vanish_the_more_the_lips_are_shut(turned: float) -> None:
    rgb, lips = parted(turned)
    counts = [teeth(shut_lips(rgb, lips, share)) for share in (0.0, 0.3, 0.6, 1.0)]
    assert counts[0] == teeth(rgb) > 150
    assert counts[0] > counts[1] > counts[2] > counts[3]
    assert counts[3] < 0.03 * counts[0], "but for a few pixels at the corners"


def test_nothing_beyond_the_mouth_moves() -> None:
    rgb, lips = parted()
    made = shut_lips(rgb, lips)
    reach = round(0.8 * EYE_DISTANCE)
    kept = np.ones(rgb.shape[:2], bool)
    kept[100 - reach : 100 + reach, 55:105] = False
    np.testing.assert_array_equal(made[kept], rgb[kept])
    np.testing.assert_array_equal(shut_lips(rgb, lips, 0.0), rgb)


def test_both_lips_remain() -> None:
    rgb, lips = parted()
    column = shut_lips(rgb, lips)[:, 80].astype(int)
    red = np.flatnonzero(column[:, 0] > column[:, 1] + 40)
    assert 12 <= len(red) <= 17, "two lips of 8 pixels, less what overlaps"
    assert red.max() - red.min() < len(red), "with nothing between them"


def test_lips_have_their_place_in_a_larger_picture_and_in_json() -> None:
    rgb, lips = parted()
    large = np.pad(cv2.resize(rgb, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC), ((30, 0), (10, 0), (0, 0)))
    placed = lips.placed(2.0, 10.0, 30.0)
    assert teeth(large) > 600
    assert teeth(shut_lips(large, placed)) < 0.03 * teeth(large)
    assert placed.eye_distance == 2 * EYE_DISTANCE
    assert Lips.from_json(lips.to_json()).placed(1, 0, 0) == Lips.from_json(lips.to_json())


def test_a_picture_without_the_mouth_stays_as_it_is() -> None:
    rgb, lips = parted()
    np.testing.assert_array_equal(shut_lips(rgb, lips.placed(1.0, 500.0, 0.0)), rgb)


def test_lips_of_a_face_are_found_where_they_are() -> None:
    face = FaceTracker().find(read_picture(REPO_ROOT / "data" / "samples" / "portrait.png"))
    assert face is not None
    lips = Lips.of(face)
    assert lips.eye_distance == face.eye_distance
    gaps = [np.hypot(*np.subtract(a, b)) for a, b in zip(lips.upper, lips.lower, strict=True)]
    assert max(gaps) < 0.03 * face.eye_distance
    assert lips.upper[0] == lips.lower[0]
