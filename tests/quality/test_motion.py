"""Motion measures on curves with known answers."""

import numpy as np
import pytest

from liveavatar.quality import motion
from liveavatar.quality.absence import MeasureUnavailable


def swaying(amplitude: float, hertz: float, jitter: float = 0.0) -> np.ndarray:
    """Anchors [250, 4, 2] of a head nodding like a sine, with white noise of deviation `jitter`, in eye distances."""
    t = np.arange(250) / 25
    anchors = np.zeros((250, 4, 2))
    anchors[..., 1] = amplitude * np.sin(2 * np.pi * hertz * t)[:, None]
    return anchors + jitter * np.random.default_rng(0).standard_normal(anchors.shape)


def test_jerk_index_of_a_sine_is_its_formula() -> None:
    # |third difference| of A sin(wt) is A (2 sin(w/2))**3 |cos(...)|, whose mean is 2/pi of the peak.
    step = 2 * np.pi * 1.0 / 25
    expected = 100 * 0.1 * (2 * np.sin(step / 2)) ** 3 * 2 / np.pi
    assert motion.jerk_index(swaying(0.1, 1.0)) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    ("jitter", "low", "high"),
    [
        pytest.param(0.0, 0.05, 0.3, id="a smooth nod"),
        pytest.param(0.01, 3.5, 7.0, id="jitter of one per cent"),
        pytest.param(0.03, 10.0, 20.0, id="jitter of three per cent"),
    ],
)
def test_jerk_index_tells_jitter(jitter: float, low: float, high: float) -> None:
    assert low < motion.jerk_index(swaying(0.1, 1.0, jitter)) < high


@pytest.mark.parametrize(
    ("apart", "together", "low", "high"),
    [
        pytest.param(0.001, 0.0, 0.4, 1.0, id="landmarks as they are"),
        pytest.param(0.0045, 0.0, 0.0, 2.0, id="landmarks that follow a face badly"),
        pytest.param(0.0045, 0.01, 3.5, 7.0, id="a head that trembles, followed badly"),
        pytest.param(0.02, 0.0, 9.0, 14.0, id="a face that trembles in itself"),
    ],
)
def test_noise_of_landmarks_is_no_jerk(apart: float, together: float, low: float, high: float) -> None:
    rng = np.random.default_rng(5)
    noise = apart * rng.standard_normal((250, 4, 2)) + together * rng.standard_normal((250, 1, 2))
    assert low < motion.jerk_index(swaying(0.1, 1.0)[:250] + noise) < high


def test_jerk_index_skips_frames_without_a_face() -> None:
    anchors = swaying(0.1, 1.0)
    whole = motion.jerk_index(anchors)
    anchors[100:110] = np.nan
    assert motion.jerk_index(anchors) == pytest.approx(whole, rel=0.1)
    with pytest.raises(MeasureUnavailable):
        motion.jerk_index(np.full((10, 4, 2), np.nan))


def test_flicker_is_one_minus_the_mean_change() -> None:
    assert motion.flicker(np.array([np.nan, 2.55, 5.1])) == pytest.approx(1 - 0.015)
    with pytest.raises(MeasureUnavailable):
        motion.flicker(np.array([np.nan]))


@pytest.mark.parametrize(
    ("seconds", "blank", "expected", "dropped"),
    [
        pytest.param(np.arange(50) / 25, 0, 50, 0, id="all there"),
        pytest.param(np.delete(np.arange(50), [10, 11, 30]) / 25, 0, 50, 3, id="three gaps in time"),
        pytest.param(np.arange(45) / 25, 0, 50, 5, id="five missing at the end"),
        pytest.param(np.arange(50) / 25, 2, 50, 2, id="two black frames"),
        pytest.param(np.arange(60) / 25, 0, 50, 0, id="padding after the sound is no loss"),
    ],
)
def test_dropped_frames(seconds: np.ndarray, blank: int, expected: int, dropped: int) -> None:
    mask = np.arange(len(seconds)) < blank
    assert motion.dropped_frames(seconds, mask, expected) == dropped


@pytest.mark.parametrize(
    ("luminance", "contrast", "blank"),
    [
        pytest.param(1.0, 0.5, True, id="black"),
        pytest.param(128.0, 0.0, True, id="grey"),
        pytest.param(20.0, 15.0, False, id="dark but a picture"),
        pytest.param(120.0, 50.0, False, id="a picture"),
    ],
)
def test_blank_frames(luminance: float, contrast: float, blank: bool) -> None:
    assert bool(motion.blank_frames(np.array([luminance]), np.array([contrast]))[0]) is blank


def test_repeated_frames_counts_the_longest_run() -> None:
    assert motion.repeated_frames(np.array([np.nan, 1, 0, 0, 1, 0, 0, 0, 1.0])) == 3


def test_edge_jump_sees_only_block_borders() -> None:
    change = np.ones(60)
    change[0] = np.nan
    assert motion.edge_jump(change) == pytest.approx(1)
    change[12::12] = 3
    assert motion.edge_jump(change) == pytest.approx(3)
    middle = np.ones(60)
    middle[18::12] = 3
    assert motion.edge_jump(middle) == pytest.approx(1)


def test_the_mean_edge_jump_leaves_key_frames_out() -> None:
    change = np.ones(192)
    change[0] = np.nan
    change[48::48] = 50  # key frames
    assert motion.mean_edge_jump(change, key_frames=48) == pytest.approx(1)
    change[12] = 13
    assert motion.mean_edge_jump(change, key_frames=48) == pytest.approx(2 / (1 + 12 / 188))
    assert np.isnan(motion.mean_edge_jump(np.ones(12), key_frames=48))
