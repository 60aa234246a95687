"""Faults that last a moment, planted in curves whose good shape is known."""

import numpy as np
import pytest

from liveavatar.quality import windows
from liveavatar.quality.absence import MeasureUnavailable

FRAMES = 200


@pytest.fixture
def change() -> np.ndarray:
    """Differences of a moving picture; the first is unknown."""
    curve = 1.0 + 0.3 * np.sin(np.arange(FRAMES) / 5)
    curve[0] = np.nan
    return curve


@pytest.fixture
def head() -> np.ndarray:
    """Four groups of landmarks of a head that sways a little, with the tracker's noise."""
    t = np.arange(FRAMES)[:, None, None]
    return 0.03 * np.sin(t / 12 + np.arange(8).reshape(4, 2)) + 0.001 * np.random.default_rng(0).standard_normal(
        (1, 4, 2)
    )


def test_a_stall_is_counted_and_placed(change: np.ndarray) -> None:
    assert windows.pause(change).value == 0
    change[100:112] = 0.05  # a coder's rest
    assert windows.pause(change) == windows.Local(12, 4.0)


@pytest.mark.parametrize(
    ("every", "low", "high"), [pytest.param(5, 0.18, 0.22, id="fifth"), pytest.param(2, 0.45, 0.55, id="second")]
)
def test_repeated_frames_are_a_share_of_two_seconds(every: int, low: float, high: float, change: np.ndarray) -> None:
    assert windows.repeat_share(change).value == 0
    change[100:150:every] = 0.05  # a quarter of the video
    found = windows.repeat_share(change)
    assert low < found.value < high
    assert 4 <= found.seconds <= 6


def test_calm_moments_between_movements_are_no_repeats(change: np.ndarray) -> None:
    calm = change.copy()
    calm[100:150] = np.tile([1.0, 0.9, 0.6, 0.25, 0.2, 0.2, 0.25, 0.6], 7)[:50]  # coded strongly: little is left
    assert windows.repeat_share(calm).value < 0.03
    calm[100:150:5] = 0.01
    assert windows.repeat_share(calm).value > 0.1


@pytest.mark.parametrize("every", [4, 5, 8])
def test_repeats_at_a_fixed_distance_count_though_a_coder_leaves_much_of_them(every: int, change: np.ndarray) -> None:
    change[3::every] *= 0.3
    assert windows.repeat_share(change).value == pytest.approx(1 / every)
    change[3::every] /= np.random.default_rng(0).choice([0.3, 1.0], len(change[3::every]))  # every second of them
    assert windows.repeat_share(change).value < 0.05


def test_a_lively_head_repeats_nothing() -> None:
    lively = np.random.default_rng(3).gamma(4.0, 0.1, (20, 200))
    assert max(windows.repeat_share(change).value for change in lively) < 0.09


def test_a_lively_head_has_no_pulse_and_one_in_four_may_be_weak() -> None:
    lively = np.random.default_rng(3).gamma(4.0, 0.1, (20, 100))
    assert max(windows.change_pulse(change).value for change in lively) < 2.0
    pulsing = np.full(100, 0.4)
    pulsing[12::12] = 1.2
    pulsing[36] = 0.4
    assert windows.change_pulse(pulsing).value > 2.4


def test_a_head_that_stops_is_still_even_under_noise(head: np.ndarray) -> None:
    mouth = np.full(FRAMES, 0.02)
    assert windows.still_face(head, mouth).value == 0
    head[100:150] = head[100] + 0.001 * np.random.default_rng(1).standard_normal((50, 4, 2))
    found = windows.still_face(head, mouth)
    assert found.value == pytest.approx(2.0, abs=0.2)
    assert found.seconds == pytest.approx(4.0, abs=0.2)
    speaking = 0.1 + 0.05 * np.sin(np.arange(FRAMES))
    assert windows.still_face(head, speaking).value == 0, "a head that is told to hold still and speaks is alive"


def test_one_flash_among_slow_changes_of_light_is_found() -> None:
    light = 100 + 10 * np.sin(np.arange(FRAMES) / 30)
    assert windows.luma_pulse(light).value < 0.5
    light[120] += 15
    found = windows.luma_pulse(light)
    assert found.value == pytest.approx(15, abs=0.5)
    assert found.seconds == 4.8


def test_the_light_is_compared_with_the_first_second() -> None:
    assert windows.luma_drift(np.linspace(100, 180, FRAMES)).value == pytest.approx(70.4, abs=0.5)
    assert windows.luma_drift(np.full(FRAMES, 90.0)).value == 0
    with pytest.raises(MeasureUnavailable, match="fewer than two seconds"):
        windows.luma_drift(np.full(40, 90.0))


@pytest.mark.parametrize("period", [12, 25])
def test_jumps_at_a_fixed_distance_are_found_and_single_ones_are_not(period: int, change: np.ndarray) -> None:
    change[[40, 91, 133]] *= 4  # blinks, a cut
    assert windows.change_pulse(change).value < 1.4
    change[7::period] *= 3
    assert windows.change_pulse(change).value > 2


def test_a_still_picture_has_no_pulse_to_judge() -> None:
    with pytest.raises(MeasureUnavailable, match="nothing moves"):
        windows.change_pulse(np.zeros(FRAMES))
    with pytest.raises(MeasureUnavailable, match="shorter than a second"):
        windows.change_pulse(np.ones(20))


def test_seconds_skip_what_is_unknown() -> None:
    curve = np.repeat([1.0, np.nan, 3.0], 25)
    curve[0] = np.nan
    seconds = windows.per_second(curve)
    assert (seconds[0], seconds[2]) == (1, 3)
    assert np.isnan(seconds[1])


def test_a_second_of_noise_is_placed(change: np.ndarray) -> None:
    assert windows.worst_flicker(change).value > 0.99
    change[100:125] = 25.0
    found = windows.worst_flicker(change)
    assert found.value == pytest.approx(1 - 25 / 255)
    assert found.seconds == pytest.approx(4.5, abs=0.5)
    with pytest.raises(MeasureUnavailable, match="half a second"):
        windows.worst_flicker(change[:5])


def test_a_shaken_second_is_placed(head: np.ndarray) -> None:
    assert windows.worst_jerk(head).value < 0.5
    head[100:125] += 0.02 * np.random.default_rng(1).standard_normal((25, 1, 2))
    found = windows.worst_jerk(head)
    assert found.value > 6
    assert found.seconds == pytest.approx(4.5, abs=0.5)
    head[:] = np.nan
    with pytest.raises(MeasureUnavailable, match="no face"):
        windows.worst_jerk(head)


@pytest.mark.parametrize("factor", [0.5, 2.0], ids=["blurred", "grainy"])
def test_a_second_that_is_less_or_more_sharp_is_placed(factor: float) -> None:
    curve = np.full(FRAMES, 0.9)
    assert windows.sharpness_step(curve).value == 0
    curve[100:125] *= factor
    curve[30:40] = np.nan
    found = windows.sharpness_step(curve)
    assert found.value == pytest.approx(1.0)
    assert found.seconds == pytest.approx(4.5, abs=0.5)
    with pytest.raises(MeasureUnavailable, match="two seconds"):
        windows.sharpness_step(curve[:40])


@pytest.mark.parametrize(("total", "seconds"), [(10, 1), (25, 1), (30, 2), (100, 16)])
def test_every_part_of_a_second(total: int, seconds: int) -> None:
    parts = list(windows.seconds_of(total))
    assert len(parts) == seconds
    assert parts[-1].stop == total
