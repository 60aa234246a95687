"""Plots of the report page as inline SVG: lines, bars and words on a time axis.

Every plot of one page shares the width and the margins, so that a playhead at the same x means the same time.
Colours are CSS variables, which lets the page follow the reader's light or dark setting.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

WIDTH = 1000  # SVG units; the page scales them
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 8, 20
MAX_POINTS = 1500  # per line; more cannot be seen at this width


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One curve over time."""

    seconds: np.ndarray
    values: np.ndarray  # NaN = gap
    colour: str  # CSS colour or variable
    label: str
    filled: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """Ranges and places of a plot's two axes."""

    seconds: float  # length of the time axis
    low: float
    high: float
    height: int = 150  # SVG units
    unit: str = ""

    def x(self, seconds: float) -> float:
        """Return the horizontal place of a time."""
        return LEFT + (WIDTH - LEFT - RIGHT) * seconds / max(self.seconds, 1e-6)

    def y(self, value: float) -> float:
        """Return the vertical place of a value."""
        share = (value - self.low) / max(self.high - self.low, 1e-9)
        return TOP + (self.height - TOP - BOTTOM) * (1 - min(1.0, max(0.0, share)))


def span(values: Sequence[np.ndarray], include: Sequence[float] = (), floor: float = 1e-3) -> tuple[float, float]:
    """Return the range of the finite values of curves, with `include` in it and no flatter than `floor`."""
    finite = [v[np.isfinite(v)] for v in values]
    points = np.concatenate([*finite, np.array(include, float)])
    low, high = (float(points.min()), float(points.max())) if len(points) else (0.0, 1.0)
    return low, max(high, low + floor)


def line_plot(
    lines: Sequence[Line],
    axis: Axis,
    title: str,
    shade: Sequence[tuple[float, float]] = (),
    limits: Sequence[tuple[float, str]] = (),
) -> str:
    """Draw an SVG of curves over time.

    Args:
        lines: the curves.
        axis: what the plot spans.
        title: read out by screen readers and shown on hovering.
        shade: stretches of time to tint, (start, end) in seconds.
        limits: (value, label) of dashed lines.
    """
    parts = [_open(axis, title)]
    for start, end in shade:
        left, right = axis.x(start), axis.x(end)
        parts.append(
            f'<rect class="shade" x="{left:.1f}" y="{TOP}" width="{max(0.5, right - left):.1f}" '
            f'height="{axis.height - TOP - BOTTOM}"/>'
        )
    parts += [_grid(axis), *(_limit(axis, value, label) for value, label in limits)]
    for line in lines:
        parts += _curves(axis, line)
    parts.append("</svg>")
    return "".join(parts)


def waveform(audio: np.ndarray, rate: int, words: Sequence[Mapping[str, Any]], seconds: float) -> str:
    """Draw an SVG of a sound's outline with the words under it.

    Args:
        audio: float32 mono.
        rate: Hz.
        words: mappings with `start`, `end` (seconds) and `text`; those that would overlap go to a second or third row.
        seconds: length of the time axis.
    """
    rows_height = 48 if words else 0
    axis = Axis(seconds=seconds, low=-1, high=1, height=130)
    columns = min(WIDTH - LEFT - RIGHT, max(1, len(audio)))
    edges = np.linspace(0, len(audio), columns + 1).astype(int)
    peak = max(float(np.abs(audio).max()) if len(audio) else 0.0, 1e-6)
    upper, lower = [], []
    for column in range(columns):
        piece = audio[edges[column] : max(edges[column] + 1, edges[column + 1])] / peak
        x = axis.x(edges[column] / rate)
        upper.append(f"{x:.1f},{axis.y(float(piece.max())):.1f}")
        lower.append(f"{x:.1f},{axis.y(float(piece.min())):.1f}")
    shape = " ".join(upper + lower[::-1])
    parts = [_open(axis, "waveform with words", rows_height), f'<polygon class="wave" points="{shape}"/>']
    parts += [_ticks(axis, axis.height), *_word_marks(axis, words), "</svg>"]
    return "".join(parts)


def bars(values: np.ndarray, axis: Axis, title: str, limit: tuple[float, str], colour: str) -> str:
    """Draw an SVG of one bar per block; bars over the limit take the warning colour.

    Args:
        values: one a block, in the axis's unit.
        axis: `axis.seconds` is the playing time of all blocks.
        title: as in `line_plot`.
        limit: (value, label) of the dashed line.
        colour: CSS colour of bars under the limit.
    """
    parts = [_open(axis, title), _grid(axis)]
    width = (WIDTH - LEFT - RIGHT) / max(1, len(values))
    for index, value in enumerate(values):
        if not math.isfinite(value):
            continue
        y = axis.y(value)
        fill = "var(--warn)" if value > limit[0] else colour
        parts.append(
            f'<rect x="{LEFT + index * width:.2f}" y="{y:.1f}" width="{max(0.4, width * 0.85):.2f}" '
            f'height="{max(0.5, axis.height - BOTTOM - y):.1f}" fill="{fill}">'
            f"<title>block {index}: {value:.1f} {escape(axis.unit)}</title></rect>"
        )
    parts += [_limit(axis, *limit), "</svg>"]
    return "".join(parts)


def _open(axis: Axis, title: str, extra: int = 0) -> str:
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {axis.height + extra}" role="img" data-seconds="{axis.seconds:.3f}" '
        f'data-left="{LEFT}" data-right="{RIGHT}"><title>{escape(title)}</title>'
    )


def _grid(axis: Axis) -> str:
    parts = []
    for value in _round_steps(axis.low, axis.high, 4):
        y = axis.y(value)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{value:g}</text>'
        )
    return "".join(parts) + _ticks(axis, axis.height)


def _ticks(axis: Axis, height: int) -> str:
    return "".join(
        f'<text class="tick" x="{axis.x(s):.1f}" y="{height - 5}" text-anchor="middle">{_clock(s)}</text>'
        for s in _round_steps(0, axis.seconds, 10)
        if s < axis.seconds * 0.985
    )


def _clock(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 60 else f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def _limit(axis: Axis, value: float, label: str) -> str:
    y = axis.y(value)
    return (
        f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{WIDTH - RIGHT - 4}" y="{max(y - 4, 10):.1f}" text-anchor="end">{escape(label)}</text>'
    )


def _curves(axis: Axis, line: Line) -> list[str]:
    """Draw one polyline per run of finite values; long curves are thinned by means, which keeps their shape."""
    seconds, values = line.seconds, line.values.astype(float)
    if len(values) > MAX_POINTS:
        edges = np.linspace(0, len(values), MAX_POINTS + 1).astype(int)[:-1]
        counts = np.diff(np.r_[edges, len(values)])
        values = np.add.reduceat(values, edges) / counts
        seconds = seconds[edges]
    edges = np.flatnonzero(np.diff(np.r_[0, np.isfinite(values).astype(np.int8), 0]))
    parts = []
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        points = [
            f"{axis.x(float(s)):.1f},{axis.y(float(v)):.1f}"
            for s, v in zip(seconds[start:end], values[start:end], strict=True)
        ]
        if line.filled:
            base = axis.y(axis.low)
            corners = [
                f"{axis.x(float(seconds[start])):.1f},{base:.1f}",
                f"{axis.x(float(seconds[end - 1])):.1f},{base:.1f}",
            ]
            outline = " ".join([corners[0], *points, corners[1]])
            parts.append(f'<polygon points="{outline}" fill="{line.colour}" fill-opacity="0.25"/>')
        if end - start == 1:
            x, y = points[0].split(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="2" fill="{line.colour}"/>')
        parts.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{line.colour}" stroke-width="1.6"/>')
    return parts


def _word_marks(axis: Axis, words: Sequence[Mapping[str, Any]]) -> list[str]:
    parts: list[str] = []
    ends = [0.0, 0.0, 0.0]  # right edge of the text in each row
    for word in words:
        text = str(word["text"]).strip()
        left = axis.x(float(word["start"]))
        right = max(left + 2, axis.x(float(word["end"])))
        row = next((r for r, end in enumerate(ends) if left >= end), None)
        mark = (
            f'<rect class="word" x="{left:.1f}" width="{right - left:.1f}" y="{axis.height + 1}" height="3" rx="1.5"/>'
        )
        if row is None:
            parts.append(mark)
            continue
        ends[row] = left + 6.2 * len(text) + 5
        tip = f"{float(word['start']):.2f} to {float(word['end']):.2f} s"
        if word.get("probability") is not None:
            tip += f", probability {float(word['probability']):.2f}"
        parts.append(
            f'{mark}<text class="say" x="{left:.1f}" y="{axis.height + 17 + 14 * row}">{escape(text)}'
            f"<title>{escape(tip)}</title></text>"
        )
    return parts


def _round_steps(low: float, high: float, count: int) -> list[float]:
    """List about `count` round numbers between two values."""
    raw = max(high - low, 1e-9) / count
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= raw)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 10) for k in range(first, last + 1)]
