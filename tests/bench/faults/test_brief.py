"""Faults of one second leave the rest of the video alone; what is painted on a face lies on the face."""

import numpy as np
import pytest

from liveavatar.bench.faults import brief
from liveavatar.bench.faults.picture import Original, Planted
from liveavatar.timing import FPS

FRAMES = 75


@pytest.fixture(scope="module")
def original() -> Original:
    """Grey noise of three seconds, with a face in its middle."""
    frames = np.random.default_rng(0).integers(60, 200, (FRAMES, 96, 64, 3), np.uint8)
    middle = np.tile(np.float32([32, 48]), (FRAMES, 1))
    return Original(frames, middle, middle + np.float32([0, 12]), 24.0, frames[0])


@pytest.mark.parametrize(
    ("planted", "strength"),
    [
        (brief.noise_for_a_second, 30), (brief.blur_for_a_second, 2.5), (brief.mosaic_for_a_second, 6),
        (brief.bars_for_a_second, 0.1), (brief.shaking_for_a_second, 3),
    ],
    ids=["noise", "blur", "mosaic", "bars", "shaking"],
)  # fmt: skip
def test_only_the_middle_second_changes(planted: Planted, strength: float, original: Original) -> None:
    changed = (planted(original, strength) != original.frames).any((1, 2, 3))
    first = (FRAMES - FPS) // 2
    assert not changed[:first].any()
    assert not changed[first + FPS :].any()
    assert changed[first : first + FPS].mean() > 0.9


@pytest.mark.parametrize(
    ("planted", "strength"), [(brief.logo, 0.5), (brief.chin_patch, 0.8)], ids=["logo", "chin patch"]
)
def test_what_is_painted_lies_on_the_face(planted: Planted, strength: float, original: Original) -> None:
    rows, columns = np.nonzero((planted(original, strength) != original.frames).any((0, 3)))
    assert len(rows) > 20
    x, y = original.face[0]
    assert abs(columns.mean() - x) < original.eyes
    assert abs(rows.mean() - y) < original.eyes
    assert len(rows) < 0.2 * 96 * 64


def test_few_levels_are_few(original: Original) -> None:
    assert len(np.unique(brief.few_levels(original, 4))) == 4
