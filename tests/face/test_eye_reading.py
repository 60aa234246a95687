"""Eyes read off films: the true films of the evaluation split against their labels, and eyes that cannot be read."""

import logging

import numpy as np
import pytest

from liveavatar.face.eye_reading import MAX_GAZE, MIN_PIXELS, seen_eyes
from liveavatar.pose.files import read_pose
from liveavatar.quality.split import load_split


@pytest.mark.parametrize("number", [pytest.param(0, id="upright, two blinks"), pytest.param(6, id="glances far aside")])
def test_eyes_of_a_true_film_are_those_of_its_labels(number: int) -> None:
    clip = load_split()[number]
    true = clip.labels().eyes
    track = read_pose(clip.path("film.mkv"))
    assert track.shape == (len(true), 6)
    lids, yaw, pitch = track[:, 3:].T
    assert np.corrcoef(lids, true[:, 0])[0, 1] > 0.97
    assert lids[true[:, 0] < 0.02].max() < 0.1, "open eyes are open"
    assert lids[true[:, 0] > 0.95].min() > 0.75, "shut ones are shut"
    assert np.corrcoef(yaw, true[:, 1])[0, 1] > 0.9
    assert 0.6 < yaw @ true[:, 1] / (true[:, 1] @ true[:, 1]) < 1.2
    assert not pitch.any()


def readings(count: int, pixels: float = 80.0) -> np.ndarray:
    return np.tile([0.1, 0.0, pixels], (count, 1))


def test_lids_are_counted_from_the_films_own_open_eyes() -> None:
    for wide in (0.06, 0.15):
        seen = readings(50)
        seen[:, 0] = wide * np.where(np.arange(50) // 5 == 4, 0.2, 1 + 0.05 * np.sin(np.arange(50)))
        eyes = seen_eyes(seen, np.zeros(50))
        assert eyes is not None
        assert np.array_equal(eyes[:, 0], np.arange(50) // 5 == 4)


def test_a_glance_is_followed_through_a_blink_and_the_rest_is_the_camera() -> None:
    seen = readings(100)
    seen[:, 1] = 0.01 + np.where((np.arange(100) >= 40) & (np.arange(100) < 70), 0.02, 0)
    seen[50:55, :2] = 0.02, 0.5  # irises behind lids are anywhere
    eyes = seen_eyes(seen, np.full(100, 0.3))
    assert eyes is not None
    np.testing.assert_allclose(eyes[:40, 1], 0, atol=1e-6)
    np.testing.assert_allclose(eyes[40:70, 1], 0.15, atol=1e-6)
    seen[:, 1] *= 100
    far = seen_eyes(seen, np.zeros(100))
    assert far is not None
    assert far[:, 1].max() == np.float32(MAX_GAZE)


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(readings(20, MIN_PIXELS - 1), id="too small"),
        pytest.param(readings(20) * [0.2, 1, 1], id="shut throughout"),
    ],
)
def test_eyes_that_cannot_be_read_are_not_given(seen: np.ndarray) -> None:
    assert seen_eyes(seen, np.zeros(20)) is None


def test_a_film_whose_eyes_cannot_be_read_gives_the_head_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("liveavatar.face.eye_reading.MIN_PIXELS", 1000)
    path = load_split()[0].path("film.mkv")
    with caplog.at_level(logging.WARNING):
        assert read_pose(path, max_frames=8).shape == (8, 3)
    assert "only its head is followed" in caplog.text
