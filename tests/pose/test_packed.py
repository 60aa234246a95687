"""Packed pictures: every picture as it was, at any place, black after the end; nothing else is taken for them."""

import numpy as np
import pytest

from liveavatar.errors import InputError
from liveavatar.pose.packed import DrawnPose, pack

PICTURES = np.random.default_rng(0).integers(0, 255, (5, 6, 8, 3), dtype=np.uint8)


def test_pictures_come_out_as_they_went_in() -> None:
    packed = pack(PICTURES)
    assert (packed.dtype, packed.ndim) == (np.uint8, 1)
    drawn = DrawnPose(packed)
    assert (drawn.num_frames, drawn.height, drawn.width) == (5, 6, 8)
    assert np.array_equal(drawn.frame(3), PICTURES[3])
    assert np.array_equal(drawn.frames(0, 5), PICTURES)
    later = drawn.frames(4, 7)
    assert np.array_equal(later[0], PICTURES[4])
    assert not later[1:].any(), "black after the end"


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(np.zeros((4, 3), np.float32), id="a track of angles"),
        pytest.param(np.zeros(0, np.uint8), id="nothing"),
        pytest.param(np.zeros(100, np.uint8), id="zeros"),
    ],
)
def test_something_else_is_refused(array: np.ndarray) -> None:
    with pytest.raises(InputError, match="holds no packed pictures"):
        DrawnPose(array)
