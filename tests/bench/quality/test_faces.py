"""Measures of face curves whose answer is known."""

import numpy as np
import pytest
import torch

from liveavatar.bench.quality.faces import blink_depth, corner_lift, head_spread, read_faces
from liveavatar.face.landmarks import MOUTH_CORNERS, Face, FaceTracker
from liveavatar.quality import reference
from liveavatar.quality.curves import correlation
from liveavatar.quality.split import Clip


def test_blinks_and_heads() -> None:
    lids = np.full(200, 0.12)
    assert blink_depth(lids) == pytest.approx(0)
    lids[50:56] = 0.012
    assert blink_depth(lids) == pytest.approx(0.9)
    head = np.radians(np.stack([3 * np.sin(np.arange(500) / 7)] * 3, 1))
    assert head_spread(head) == pytest.approx(3 / np.sqrt(2), rel=0.02)
    assert head_spread(np.concatenate([head, np.full((5, 3), np.nan)])) == pytest.approx(head_spread(head))


@pytest.mark.parametrize("angle", [0.0, 0.3])
def test_a_smile_lifts_the_corners_of_a_tilted_head_too(angle: float) -> None:
    points = np.zeros((478, 2), np.float32)
    points[[33, 263]] = [[-50, 0], [50, 0]]
    points[[13, 14]] = [[0, 60], [0, 64]]
    points[list(MOUTH_CORNERS)] = [[-25, 57], [25, 57]]  # five pixels above the middle of the lips
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    assert corner_lift(Face(points @ turn.T, 1.0)) == pytest.approx(0.05, abs=1e-3)


def test_the_reader_reads_the_true_mouth(stored: list[Clip]) -> None:
    """The product's tracker against the labels: what a perfect generator could reach."""
    clip = stored[0]
    points = torch.from_numpy(clip.labels().landmarks[:96])
    faces = read_faces(clip.frames()[:96], FaceTracker())
    assert correlation(faces.openness, reference.openness(points).numpy()) > 0.93
    assert correlation(faces.width, reference.mouth_width(points).numpy()) > 0.8
