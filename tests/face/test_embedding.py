"""Embeddings of the same face are alike."""

import cv2
import numpy as np
import pytest

from liveavatar.face import embedding
from liveavatar.face.landmarks import FaceTracker
from tests.puppet import Puppet


def test_identity_knows_the_same_face(puppet: Puppet) -> None:
    tracker, net = FaceTracker(threads=1), embedding.IdentityNet()

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
