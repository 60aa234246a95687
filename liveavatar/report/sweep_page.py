"""Page of a sweep: a chart for each measure over the denoise steps, one colour a size, and the tables."""

import html
import math
from collections.abc import Sequence
from typing import Any

from liveavatar.report import wording

CHARTED = ("ms_per_frame", "sync_error_frames", "texture_psnr", "jerk_index")
BETTER = {"ms_per_frame": "lower", "sync_error_frames": "lower", "texture_psnr": "higher", "jerk_index": "lower"}
COLOURS = ("var(--a)", "var(--b)", "var(--c)", "var(--d)", "var(--e)", "var(--f)")  # of sizes
WIDTH, HEIGHT = 360, 210  # of a chart, SVG units
LEFT, RIGHT, TOP, BOTTOM = 16, 16, 24, 28
LETTER, LINE = 6.4, 12.0  # width and height of a label's letters
ROOM = 0.18  # of the range, above and below the curves
NAMES = {"steps": "denoise steps", "size": "size", "status": "verdict", "recommended_steps": "steps to take"}
STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b2430; --soft: #5d6878; --rule: #dfe4ea;
  --a: #3461c9; --b: #c25a1c; --c: #23855a; --d: #a3379b; --e: #7a6a00; --f: #5d6878; }
@media (prefers-color-scheme: dark) { :root { --page: #12161c; --card: #1b212a; --ink: #e6eaf0; --soft: #9aa6b6;
  --rule: #303947; --a: #7aa2ff; --b: #ff9d66; --c: #4cc38a; --d: #e58be0; --e: #d8c64a; --f: #9aa6b6; } }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 20px 14px 50px; }
h1 { font-size: 24px; } h2 { font-size: 17px; margin: 0 0 8px; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 12px; padding: 14px;
  margin: 0 0 16px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 14px; }
figure { margin: 0; } figcaption { font-weight: 600; font-size: 14px; }
figcaption small { color: var(--soft); font-weight: 400; }
svg { display: block; width: 100%; height: auto; } text { font-size: 11px; fill: var(--soft); }
.legend span { display: inline-block; margin-right: 16px; }
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 6px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
td, th { padding: 5px 10px; border-top: 1px solid var(--rule);
  text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 500; white-space: normal; }
"""

Row = dict[str, Any]
Box = tuple[float, float, float, float]


def sweep_page(rows: Sequence[Row], sizes: Sequence[Row] | None) -> str:
    """Format a page that opens offline.

    Args:
        rows: one a render: `steps`, `size`, and measures.
        sizes: one a size, with the steps that it needs; None where nothing is recommended.
    """
    colours = {size: COLOURS[n % len(COLOURS)] for n, size in enumerate(dict.fromkeys(row["size"] for row in rows))}
    legend = "".join(
        f"<span><i style='background:{colour}'></i>{_text(size)}</span>" for size, colour in colours.items()
    )
    charts = "".join(chart(name, rows, colours) for name in CHARTED)
    second = f"<section><h2>Size and recommended steps</h2>{_table(sizes)}</section>" if sizes else ""
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>Sweep</title><style>{STYLE}</style><main><h1>Sweep</h1><section><h2>Over denoise steps</h2>"
        f"<p class='legend'>{legend}</p><div class='charts'>{charts}</div></section>"
        f"<section><h2>All renders</h2>{_table(rows)}</section>{second}</main></html>"
    )


def chart(name: str, rows: Sequence[Row], colours: dict[str, str]) -> str:
    """Draw one measure over the steps: a line a size, labels that do not lie on one another; "" without a value."""
    points = [(row["size"], int(row["steps"]), float(row[name])) for row in rows if row.get(name) is not None]
    points = [point for point in points if math.isfinite(point[2])]
    if not points:
        return ""
    steps, values = sorted({step for _, step, _ in points}), [value for *_, value in points]
    room = max(max(values) - min(values), 1e-9 + 0.05 * abs(max(values))) * ROOM
    low, high = min(values) - room, max(values) + room

    def place(step: int, value: float) -> tuple[float, float]:
        across = 0.5 if len(steps) == 1 else (step - steps[0]) / (steps[-1] - steps[0])
        x = LEFT + 14 + across * (WIDTH - LEFT - RIGHT - 28)
        return x, TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    base = HEIGHT - BOTTOM
    parts = [f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{base}' y2='{base}' stroke='var(--rule)'/>"]
    parts += [f"<text x='{place(s, low)[0]:.1f}' y='{HEIGHT - 10}' text-anchor='middle'>{s}</text>" for s in steps]
    for size, colour in colours.items():
        line = sorted((step, value) for of, step, value in points if of == size)
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
        parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        parts += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5' fill='{colour}'/>" for x, y in (place(*p) for p in line)]
    labels = [(*place(step, value), wording.number(value), colours[size]) for size, step, value in points]
    parts += [
        f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='middle' style='fill:{colour}'>{text}</text>"
        for x, y, text, colour in spread(labels)
    ]
    better = BETTER.get(name)
    title = f"{_text(_name(name))}<small>{f', {better} is better' if better else ''}</small>"
    return (
        f"<figure><figcaption>{title}</figcaption><svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img'>"
        f"{''.join(parts)}</svg></figure>"
    )


def spread(labels: Sequence[tuple[float, float, str, str]]) -> list[tuple[float, float, str, str]]:
    """Put each label above its point, else below it; one that would lie on another is left out.

    Args:
        labels: x, y of the point, text, colour.
    """
    placed: list[tuple[float, float, str, str]] = []
    taken: list[Box] = [(x - 4, y - 4, x + 4, y + 4) for x, y, *_ in labels]  # the points themselves
    for x, y, text, colour in labels:
        half = len(text) * LETTER / 2
        for at in (y - 8, y + 8 + LINE * 0.8):
            box = (x - half, at - LINE * 0.8, x + half, at + LINE * 0.2)
            if not any(_overlap(box, other) for other in taken) and at < HEIGHT - BOTTOM:
                taken.append(box)
                placed.append((x, at, text, colour))
                break
    return placed


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _table(rows: Sequence[Row]) -> str:
    head = "".join(f"<th title='{_text(column)}'>{_text(_name(column))}</th>" for column in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(_cell(name, value))}</td>" for name, value in row.items()) + "</tr>"
        for row in rows
    )
    return f"<div class='scroll'><table><tr>{head}</tr>{body}</table></div>"


def _cell(name: str, value: Any) -> str:
    return wording.timing(name, value)[0] if name in wording.TIMINGS else wording.value_of(name, value)


def _name(column: str) -> str:
    if column == "ms_per_frame":
        return "Rendering time of a frame, ms"
    if column in wording.TIMINGS:
        return wording.TIMINGS[column].title
    return NAMES.get(column) or wording.title(column)


def _text(value: object) -> str:
    return html.escape(str(value))
