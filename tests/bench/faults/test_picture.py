"""Every planted picture fault changes the video, keeps its size, and begins where it says."""

import numpy as np
import pytest

from liveavatar.bench.faults import plan
from liveavatar.bench.faults.picture import Original

FRAMES = 48


@pytest.fixture(scope="module")
def original() -> Original:
    """Noise that moves sideways, with a face in its middle."""
    rng = np.random.default_rng(0)
    wide = rng.integers(40, 200, (64, 48 + FRAMES, 3), np.uint8)
    frames = np.stack([wide[:, t : t + 48] for t in range(FRAMES)])
    middle = np.tile(np.float32([24, 32]), (FRAMES, 1))
    return Original(frames, middle, middle + np.float32([0, 8]), 16.0, rng.integers(0, 255, (64, 48, 3), np.uint8))


FAULTS = [fault for fault in plan.faults() if not fault.in_sound]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_planted_fault_changes_the_pictures_and_nothing_else(fault: plan.Fault, original: Original) -> None:
    before = original.frames.copy()
    planted = plan.PICTURE[fault.name][0](original, fault.strength)
    assert (planted.dtype, planted.shape[1:]) == (np.uint8, original.frames.shape[1:])
    assert len(planted) - FRAMES == (12 if fault.name == "frames inserted" else 0)
    assert not np.array_equal(planted[:FRAMES], original.frames)
    assert np.array_equal(original.frames, before), "the good video is left as it was"


@pytest.mark.parametrize(
    "name",
    ["picture stands still from", "another person from", "mouth stops from", "half the face covered from"],
)
def test_a_fault_that_begins_in_the_middle_leaves_the_start(name: str, original: Original) -> None:
    planted = plan.PICTURE[name][0](original, 0.5)
    changed = (planted != original.frames).any((1, 2, 3))
    assert not changed[: FRAMES // 2].any()
    assert changed[FRAMES // 2 + 1 :].all()
