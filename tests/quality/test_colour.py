"""Casts, lost and swapped colours of skin, against a portrait of known colour."""

import numpy as np
import pytest

from liveavatar.quality import colour
from liveavatar.quality.absence import MeasureUnavailable

SKIN = np.array([180.0, 130.0, 110.0])


def video(*seconds: np.ndarray) -> np.ndarray:
    """A mean colour for every second, 25 frames each."""
    return np.repeat(np.stack(seconds), 25, axis=0)


@pytest.mark.parametrize(
    ("last", "green", "warm"),
    [
        pytest.param(SKIN, 0, 0, id="as the portrait"),
        pytest.param(SKIN * 0.5, 0, 0, id="darker"),
        pytest.param(SKIN + np.array([0, 42, 0]), 0.27, -0.05, id="a green cast"),
        pytest.param(SKIN[::-1], 0.0, -1, id="red and blue swapped"),
    ],
)
def test_casts_of_the_furthest_second(last: np.ndarray, green: float, warm: float) -> None:
    frames = video(SKIN, SKIN, last)
    assert colour.green_shift(frames, SKIN).value == pytest.approx(green, abs=0.03)
    assert colour.warm_shift(frames, SKIN).value == pytest.approx(warm, abs=0.03)


def test_lost_colour_and_drift() -> None:
    grey = np.full(3, 140.0)
    assert colour.saturation(video(SKIN, SKIN), SKIN) == pytest.approx(1)
    assert colour.saturation(video(grey, grey), SKIN) == 0
    assert colour.colour_drift(video(SKIN, SKIN, grey)) == colour.Local(pytest.approx(0.286, abs=0.01), 2.0)
    with pytest.raises(MeasureUnavailable, match="no colour"):
        colour.saturation(video(SKIN), grey)
    with pytest.raises(MeasureUnavailable, match="no second"):
        colour.colour_drift(np.full((50, 3), np.nan))
