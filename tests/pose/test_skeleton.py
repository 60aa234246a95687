"""Key points of a head and their drawing: DWPose's colours and order, lips at rest, shoulders that stand still."""

import numpy as np
import pytest

from liveavatar.face.landmarks import FaceTracker
from liveavatar.media.picture import read_picture
from liveavatar.paths import REPO_ROOT
from liveavatar.pose.skeleton import (
    ANCHORS,
    BODY,
    COLOURS,
    FACE,
    FACE_OF_MESH,
    LEFT_SHOULDER,
    LIMBS,
    NECK,
    NOSE,
    NUM_KEYPOINTS,
    RIGHT_SHOULDER,
    draw,
    head_keypoints,
    with_resting_lips,
)

SIZE = (512, 640)
LIPS = list(FACE_OF_MESH[48:])


@pytest.fixture(scope="module")
def mesh() -> np.ndarray:
    face = FaceTracker().find(read_picture(REPO_ROOT / "data" / "samples" / "portrait.png"))
    assert face is not None
    return face.points


def test_faces_have_the_68_points_in_their_order(mesh: np.ndarray) -> None:
    face = head_keypoints(mesh[None])[0, FACE]
    assert len(face) == len(set(FACE_OF_MESH)) == 68
    jaw, brows, nose, eyes, lips = np.split(face, [17, 27, 36, 48])
    assert jaw[0, 0] < jaw[8, 0] < jaw[16, 0], "from the right ear over the chin to the left"
    assert jaw[8, 1] == face[:, 1].max(), "the chin is lowest"
    assert brows[:, 1].max() < eyes[:, 1].min() < nose[:, 1].max() < lips[:, 1].min()
    assert eyes[:6, 0].max() < nose[0, 0] < eyes[6:, 0].min()
    assert brows[0, 0] < brows[-1, 0]


def test_a_head_has_a_nose_eyes_ears_and_estimated_shoulders(mesh: np.ndarray) -> None:
    moved = np.stack([mesh, mesh + np.float32([30, 10]), mesh])
    body = head_keypoints(moved)[:, BODY]
    seen = np.flatnonzero(np.isfinite(body[0]).all(1))
    assert seen.tolist() == [NOSE, NECK, RIGHT_SHOULDER, LEFT_SHOULDER, 14, 15, 16, 17]
    np.testing.assert_allclose(body[1, NOSE] - body[0, NOSE], [30, 10], atol=1e-3)
    assert np.ptp(body[:, NECK], axis=0).max() == 0, "shoulders stand still while the head moves"
    ear, eye, nose, other_eye, other_ear = body[0, [16, 14, NOSE, 15, 17], 0]
    assert ear < eye < nose < other_eye < other_ear, "the person's right is on the picture's left"
    assert body[0, RIGHT_SHOULDER, 0] < ear
    assert other_ear < body[0, LEFT_SHOULDER, 0]
    assert body[0, NECK, 1] > mesh[152, 1], "below the chin"


def test_lips_rest_and_move_with_the_head(mesh: np.ndarray) -> None:
    turn = np.array([[np.cos(0.2), np.sin(0.2)], [-np.sin(0.2), np.cos(0.2)]], np.float32)
    frames = np.stack([mesh, mesh @ turn + 9, mesh])
    speaking = frames.copy()
    speaking[2, LIPS] += np.float32([0, 12])
    rested = with_resting_lips(speaking)
    np.testing.assert_allclose(rested[:, LIPS], frames[:, LIPS], atol=0.5)
    others = np.setdiff1d(np.arange(478), LIPS)
    assert np.array_equal(rested[:, others], speaking[:, others])
    assert not set(ANCHORS) & set(LIPS)


def test_points_and_limbs_have_their_colours() -> None:
    points = np.full((NUM_KEYPOINTS, 2), np.nan, np.float32)
    points[[NOSE, NECK]] = (100, 100), (100, 300)
    points[FACE][7] = 400, 500
    drawn = draw(points, SIZE)
    assert drawn.shape == (640, 512, 3)
    assert drawn[100, 100].tolist() == list(COLOURS[NOSE]) == [255, 0, 0]
    assert drawn[300, 100].tolist() == list(COLOURS[NECK])
    limb = LIMBS.index((NECK, NOSE))
    assert drawn[200, 100].tolist() == [int(0.6 * level) for level in COLOURS[limb]], "limbs are darker"
    assert drawn[500, 400].tolist() == [255, 255, 255]
    assert [int(drawn[200, x].any()) for x in (95, 97, 103, 105)] == [0, 1, 1, 0], "a limb is nine pixels wide"
    assert (drawn.max(2) > 0).mean() < 0.02
    assert not draw(np.full((NUM_KEYPOINTS, 2), np.nan), SIZE).any(), "nobody"


def test_widths_grow_with_the_picture() -> None:
    points = np.full((NUM_KEYPOINTS, 2), np.nan, np.float32)
    points[FACE][0] = 50, 50
    small, large = draw(points, (128, 128)), draw(points, (1024, 1024))
    assert 0 < (small[..., 0] > 0).sum() < (large[..., 0] > 0).sum()
    points[FACE][0] = -40, 5000
    assert not draw(points, (128, 128)).any(), "a point beside the picture"
