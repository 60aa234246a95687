"""Local measures of an observation that was never made."""

import numpy as np
import pytest

from liveavatar.quality import moments
from liveavatar.quality.absence import MeasureUnavailable
from liveavatar.quality.observe import Observation

FRAMES = 100


@pytest.fixture
def seen() -> Observation:
    """Four seconds of a good face; samples every fifth frame."""
    unknown = [float("nan")] * 4
    return Observation(
        seconds=[t / 25 for t in range(FRAMES)],
        roll=[0.1] * FRAMES,
        red=[180.0] * FRAMES,
        green=[130.0] * FRAMES,
        blue=[110.0] * FRAMES,
        spots=[5.0, *unknown] * 20,
        half_likeness=[0.95, *unknown] * 20,
        stretch=[0.01, *unknown] * 20,
        turn=[0.05, *unknown] * 20,
        bars=[np.zeros(4)] * 20,
        embedding_frames=list(range(0, FRAMES, 5)),
    )


def test_the_worst_second_counts_unless_the_head_is_turned(seen: Observation) -> None:
    for frame in range(50, 75, 5):
        seen.spots[frame], seen.half_likeness[frame] = 60.0, 0.2
    curves = moments.portrait_curves(seen, None)
    spots, half = curves["spots"](), curves["half_likeness"]()
    assert (spots.value, half.value) == (60.0, 0.2)
    assert (spots.seconds, half.seconds) == (pytest.approx(2.5, abs=0.5), pytest.approx(2.5, abs=0.1))
    assert curves["spots_rise"]().value == 55.0
    for frame in range(50, 75, 5):
        seen.turn[frame] = 0.5
    curves = moments.portrait_curves(seen, None)
    assert (curves["spots"]().value, curves["half_likeness"]().value) == (5.0, 0.95)
    assert curves["tilt_deg"]() == pytest.approx(np.degrees(0.1))


def test_a_head_that_is_never_like_the_portrait_s_is_not_measured(seen: Observation) -> None:
    seen.turn = [0.5] * FRAMES
    curves = moments.portrait_curves(seen, None)
    with pytest.raises(MeasureUnavailable, match="as the portrait does"):
        curves["stretch"]()


def test_a_bar_counts_when_it_lasts_a_second(seen: Observation) -> None:
    seen.bars = [np.array([0.1, 0.0, 0.0, 0.2])] * 19 + [np.array([0.1, 0, 0, 0])]
    assert moments.bars(seen, None).value == pytest.approx(0.2)
    seen.bars = [np.zeros(4)] * 20
    seen.bars[8:12] = [np.array([0.3, 0, 0, 0])] * 4
    assert moments.bars(seen, None).value == 0, "for less than a second"
    seen.bars[8:13] = [np.array([0.3, 0, 0, 0])] * 5
    found = moments.bars(seen, None)
    assert (found.value, found.seconds) == (pytest.approx(0.3), pytest.approx(2.1, abs=0.1))


def test_squares_count_in_the_worst_second(seen: Observation) -> None:
    seen.change = [1.0] * FRAMES
    seen.luminance = [100.0] * FRAMES
    seen.lattice = [0.1, *[float("nan")] * 4] * 20
    assert moments.local_curves(seen)["lattice"]().value == pytest.approx(0.1)
    for frame in range(50, 75, 5):
        seen.lattice[frame] = 1.2
    found = moments.local_curves(seen)["lattice"]()
    assert (found.value, found.seconds) == (1.2, pytest.approx(2.5, abs=0.5))


def test_likeness_is_compared_between_start_and_end() -> None:
    assert moments.identity_loss(np.linspace(0.9, 0.6, 30)) == pytest.approx(0.2, abs=0.01)
    with pytest.raises(MeasureUnavailable, match="too few"):
        moments.identity_loss(np.ones(8))


def test_turned_heads_are_left_out_but_never_all(seen: Observation) -> None:
    assert moments.comparable(seen).all()
    seen.turn[0:50] = [0.6] * 50
    assert moments.comparable(seen).tolist() == [False] * 10 + [True] * 10
    seen.turn = [0.5 + t / 1000 for t in range(FRAMES)]
    assert moments.comparable(seen).sum() == 6
