"""Curves against shifted, holed and flat copies of themselves."""

import numpy as np
import pytest

from liveavatar.quality.curves import best_lag, correlation, correlations

RAMP = np.arange(20.0)


def test_correlation_leaves_out_what_was_not_seen() -> None:
    b = 3 * RAMP + 1
    b[5] = np.nan
    b[6] = np.inf
    assert correlation(RAMP, b) == pytest.approx(1)
    assert correlation(RAMP, -b) == pytest.approx(-1)
    assert correlation(b, RAMP) == correlation(RAMP, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        pytest.param(RAMP, np.ones(20), id="a flat curve"),
        pytest.param(RAMP, np.where(RAMP < 2, RAMP, np.nan), id="two frames in common"),
        pytest.param(np.where(RAMP < 10, RAMP, np.nan), np.where(RAMP < 10, np.nan, RAMP), id="none in common"),
    ],
)
def test_what_does_not_correlate_is_not_a_number_and_counts_as_none(a: np.ndarray, b: np.ndarray) -> None:
    assert np.isnan(correlation(a, b))
    assert correlations([a, RAMP], [b, RAMP]).tolist() == [0, pytest.approx(1)]


def test_three_frames_are_enough() -> None:
    assert correlation(RAMP, np.where(RAMP < 3, -RAMP, np.nan)) == pytest.approx(-1)


@pytest.mark.parametrize("late", [pytest.param(k, id=f"{k} frames late") for k in (-3, 0, 2)])
@pytest.mark.parametrize("holes", [0, 30])
def test_lag_of_shifted_curves(late: int, holes: int) -> None:
    rng = np.random.default_rng(1)
    curves = [np.convolve(rng.normal(size=n), np.ones(5), "same") for n in (200, 150)]  # clips of any length
    moved = [np.roll(curve, late) for curve in curves]
    moved[0][:holes] = np.nan
    assert best_lag(moved, curves) == late


def test_of_equal_lags_the_smallest_counts() -> None:
    wave = np.tile([0.0, 1.0], 30)
    assert best_lag([np.roll(wave, 1)], [wave]) in (-1, 1)
    assert best_lag([wave], [wave]) == 0
    assert best_lag([np.ones(60)], [wave]) == 0, "a flat curve has no lag"
