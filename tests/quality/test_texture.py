"""Texture measures tell skin from blur, whatever the light and the portrait's size."""

import cv2
import numpy as np
import pytest

from liveavatar.face.landmarks import FaceTracker
from liveavatar.quality import texture
from tests.puppet import Puppet


@pytest.fixture(scope="module")
def tracker() -> FaceTracker:
    return FaceTracker(threads=1)


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
    assert same[1] == pytest.approx(1, abs=0.1)
    assert blurred[1] < 0.2
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
    assert texture.sharpness_ratio(puppet.rgb, face, reference) == pytest.approx(
        1, abs=0.3
    )  # half the size lacks detail


@pytest.mark.parametrize("scale", [0.97, 0.99, 1.01, 1.03, 1.5])
def test_sharpness_does_not_depend_on_how_a_video_was_scaled(
    puppet: Puppet, tracker: FaceTracker, scale: float
) -> None:
    tracker.reset()
    resized = cv2.resize(puppet.rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    portrait, face = tracker.find(puppet.rgb), tracker.find(resized)
    assert portrait is not None
    assert face is not None
    reference = texture.portrait_texture(puppet.rgb, portrait, face.eye_distance)
    assert texture.sharpness_ratio(resized, face, reference) == pytest.approx(1, abs=0.15)
