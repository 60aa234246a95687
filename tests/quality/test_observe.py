"""Readings of frames: when each is taken, against what, and what a lost face leaves."""

from collections.abc import Sequence

import numpy as np
import pytest

from liveavatar.face.landmarks import LEFT_EYE_OUTER, NUM_POINTS, RIGHT_EYE_OUTER, UNSTEADY, Face
from liveavatar.face.models import FaceModelUnavailable
from liveavatar.media.ffmpeg import Frame
from liveavatar.quality import observe
from liveavatar.quality.absence import Absence
from liveavatar.quality.observe import SAMPLE_EVERY, WANDER_EVERY, Observation, Observer

EYES = 20.0  # pixels between the outer corners


class Track:
    """A tracker that sees given faces, one a call, and calls every still picture as steady as it is told."""

    def __init__(self, faces: Sequence[Face | None], wander: float = 0.0) -> None:
        self.faces, self.unrest = iter(faces), wander
        self.portrait: Face | None = face_at(0)

    def find(self, rgb: np.ndarray) -> Face | None:
        return self.portrait

    def track(self, rgb: np.ndarray) -> Face | None:
        return next(self.faces)

    def wander(self, rgb: np.ndarray, face: Face) -> float:
        return self.unrest

    def count(self, rgb: np.ndarray) -> int:
        return 2

    def reset(self) -> None: ...


class Embedder:
    """Identity of a picture: its mean grey level as a direction."""

    def embed(self, rgb: np.ndarray, face: Face) -> np.ndarray:
        angle = float(rgb.mean()) / 255
        return np.array([np.cos(angle), np.sin(angle)])


def face_at(x: float) -> Face:
    points = np.random.default_rng(0).uniform(10, 50, (NUM_POINTS, 2)).astype(np.float32)
    points[RIGHT_EYE_OUTER], points[LEFT_EYE_OUTER] = (20, 25), (20 + EYES, 25)
    return Face(points + np.float32([x, 0]), 0.9)


def watched(
    monkeypatch: pytest.MonkeyPatch, tracker: Track, greys: Sequence[int], portrait: np.ndarray | None = None
) -> Observation:
    """Observation of frames of one grey each, at 25 fps, with a given tracker."""
    monkeypatch.setattr(observe, "FaceTracker", lambda threads, face: tracker)
    monkeypatch.setattr(observe, "IdentityNet", Embedder)
    return Observer(portrait).watch(grey_frames(greys))


def grey_frames(greys: Sequence[int]) -> list[Frame]:
    pictures = [np.full((60, 60, 3), grey, np.uint8) for grey in greys]
    return [Frame(index=i, seconds=i / 25, rgb=rgb) for i, rgb in enumerate(pictures)]


def test_light_and_change_need_no_face(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watched(monkeypatch, Track([None] * 3), (100, 100, 103))
    assert seen.luminance == [100, 100, 103]
    assert seen.contrast == [0, 0, 0]
    np.testing.assert_array_equal(seen.change, [np.nan, 0, 3])
    assert seen.presence == [0, 0, 0]
    assert np.isnan(seen.openness + seen.speed).all()
    assert np.isnan(seen.anchors).all()


def test_speed_is_in_eye_distances_a_second_and_starts_anew_after_a_lost_face(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watched(monkeypatch, Track([face_at(0), face_at(2), None, face_at(9), face_at(10)]), [90] * 5)
    np.testing.assert_allclose(seen.speed, [np.nan, 2.5, np.nan, np.nan, 1.25], rtol=1e-4)
    assert seen.head_x[1] - seen.head_x[0] == pytest.approx(2 / EYES, rel=1e-4)
    assert seen.presence == [0.9, 0.9, 0, 0.9, 0.9]


def test_costly_readings_are_taken_at_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe.texture, "portrait_texture", lambda *_: None)
    monkeypatch.setattr(observe.texture, "sharpness_ratio", lambda *_: 1.0)
    monkeypatch.setattr(observe.texture, "texture_psnr", lambda *_: 30.0)
    count = WANDER_EVERY + 1
    portrait = np.full((60, 60, 3), 90, np.uint8)
    seen = watched(monkeypatch, Track([face_at(0)] * count), [90] * count, portrait)
    sampled = [i % SAMPLE_EVERY == 0 for i in range(count)]
    assert np.isfinite(seen.identity).tolist() == np.isfinite(seen.texture_psnr).tolist() == sampled
    assert seen.sharpness_ratio == [1.0] * count
    assert seen.identity[0] == pytest.approx(1)
    assert seen.embedding_seconds == [i / 25 for i in range(0, count, SAMPLE_EVERY)]
    assert len(seen.wander) == 2


def test_without_a_portrait_nothing_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watched(monkeypatch, Track([face_at(0)]), [90])
    assert seen.missing["portrait"].kind is Absence.NOT_APPLICABLE
    assert np.isnan(seen.identity + seen.texture_psnr + seen.sharpness_ratio).all()
    assert seen.presence == [0.9]


@pytest.mark.parametrize(
    ("found", "wander", "reason"),
    [
        pytest.param(False, 0.0, "no face was found", id="no face"),
        pytest.param(True, 1.01 * UNSTEADY, "cannot be followed", id="landmarks that wander"),
        pytest.param(True, UNSTEADY, None, id="just steady enough"),
    ],
)
def test_a_portrait_that_cannot_be_followed_says_why(
    found: bool, wander: float, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Track([], wander)
    tracker.portrait = tracker.portrait if found else None
    missing = watched(monkeypatch, tracker, [], np.zeros((60, 60, 3), np.uint8)).missing
    assert ("portrait" in missing) == (reason is not None)
    if reason is not None:
        assert reason in str(missing["portrait"])
        assert missing["portrait"].kind is Absence.NOT_POSSIBLE


def test_a_missing_tracker_leaves_the_light(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise FaceModelUnavailable("no mesh here")

    monkeypatch.setattr(observe, "FaceTracker", missing)
    monkeypatch.setattr(observe, "IdentityNet", missing)
    seen = Observer(np.zeros((60, 60, 3), np.uint8)).watch(grey_frames([50]))
    assert {name: str(why) for name, why in seen.missing.items()} == {
        "face": "no mesh here",
        "identity": "no mesh here",
    }
    assert seen.luminance == [50]
    assert np.isnan(seen.openness).all()
