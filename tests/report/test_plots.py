"""Curves, bars and words lie where their axes say."""

import re

import numpy as np
import pytest

from liveavatar.report import plots


def attributes(svg: str, tag: str, name: str) -> list[str]:
    """Values of one attribute of all elements of a kind."""
    return re.findall(rf'<{tag} [^>]*\b{name}="([^"]*)"', svg)


def test_axis_maps_its_ends_to_the_margins_and_clips_the_rest() -> None:
    axis = plots.Axis(seconds=10, low=-2, high=2)
    assert [axis.x(s) for s in (0, 5, 10)] == pytest.approx([44, 518, 992])
    assert [axis.y(v) for v in (-9, -2, 0, 2, 9)] == pytest.approx([130, 130, 69, 8, 8])


@pytest.mark.parametrize(
    ("curves", "include", "expected"),
    [
        pytest.param([[1.0, np.nan, 3.0], [2.0, 5.0]], (), (1.0, 5.0), id="gaps are left out"),
        pytest.param([[1.0, 3.0]], (0.0, 4.0), (0.0, 4.0), id="limits are inside"),
        pytest.param([[2.0, 2.0]], (), (2.0, 2.5), id="a flat curve has a height"),
        pytest.param([[np.nan]], (), (0.0, 1.0), id="nothing to show"),
    ],
)
def test_span(curves: list[list[float]], include: tuple[float, ...], expected: tuple[float, float]) -> None:
    assert plots.span([np.array(c) for c in curves], include, floor=0.5) == expected


def test_lines_break_at_gaps_and_stay_inside() -> None:
    axis = plots.Axis(seconds=4, low=0, high=1)
    values = np.array([0.0, 0.5, np.nan, np.nan, 2.0, -1.0, np.nan, 0.3])
    line = plots.Line(seconds=np.arange(8) / 2, values=values, colour="red", label="x")
    svg = plots.line_plot([line], axis, "t")
    runs = re.findall(r'<polyline points="([^"]+)"', svg)
    assert [len(run.split()) for run in runs] == [2, 2, 1]
    for run in runs:
        for point in run.split():
            assert plots.TOP <= float(point.split(",")[1]) <= axis.height - plots.BOTTOM


def test_long_curves_are_thinned_without_losing_their_level() -> None:
    axis = plots.Axis(seconds=4000, low=0, high=1)
    line = plots.Line(seconds=np.arange(100_000) / 25, values=np.full(100_000, 0.5), colour="red", label="x")
    svg = plots.line_plot([line], axis, "t")
    points = re.findall(r'<polyline points="([^"]+)"', svg)[0].split()
    assert len(points) == plots.MAX_POINTS
    assert {point.split(",")[1] for point in points} == {f"{axis.y(0.5):.1f}"}


def test_bars_over_the_limit_take_the_warning_colour() -> None:
    axis = plots.Axis(seconds=2, low=0, high=1000, unit="ms")
    svg = plots.bars(np.array([300.0, 480.0, 481.0, np.nan]), axis, "t", (480.0, "deadline"), "blue")
    assert attributes(svg, "rect", "fill") == ["blue", "blue", "var(--warn)"], "no bar for an unknown time"
    assert attributes(svg, "rect", "x") == ["44.00", "281.00", "518.00"]
    assert "<title>block 2: 481.0 ms</title>" in svg


def test_shade_covers_its_seconds() -> None:
    svg = plots.line_plot([], plots.Axis(seconds=10, low=0, high=1), "t", shade=[(5, 10), (5, 5)])
    assert attributes(svg, "rect", "x") == ["518.0", "518.0"]
    assert attributes(svg, "rect", "width") == ["474.0", "0.5"], "a moment can be seen"


def test_words_that_would_overlap_go_to_the_next_row_and_then_lose_their_text() -> None:
    words = [{"start": 0.1 * i, "end": 0.1 * i + 0.05, "text": "a<b" + "c" * 9} for i in range(4)]
    svg = plots.waveform(np.array([0.5, -1.0], np.float32), 16_000, words, 100.0)
    rows = attributes(svg, 'text class="say"', "y")
    assert rows == ["147", "161", "175"], "the fourth overlaps all three rows"
    assert svg.count('class="word"') == 4
    assert "a&lt;b" in svg
    assert "a<b" not in svg


def test_waveform_is_scaled_to_its_peak() -> None:
    quiet, loud = (plots.waveform(k * np.array([0.1, -0.1, 0.05, 0.0]), 4, [], 1.0) for k in (1, 8))
    assert quiet == loud
    points = attributes(quiet, "polygon", "points")[0].split()
    assert [p.split(",")[1] for p in points[:4]] == ["8.0", "110.0", "33.5", "59.0"]


def test_ticks_are_round_numbers_and_minutes() -> None:
    svg = plots.line_plot([], plots.Axis(seconds=200, low=0, high=0.9), "t")
    assert re.findall(r">([^<]+)</text>", svg)[:4] == ["0", "0.5", "0 s", "20 s"]
    assert "1:40</text>" in svg
