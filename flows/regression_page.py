"""`regression.html`: pictures of each golden job beside those of its baseline, and a heat map of their differences."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from liveavatar.files import write_atomically
from liveavatar.media.ffmpeg import probe_video, read_frames

PICTURES, HEIGHT = 6, 160  # of a strip
QUALITY = 80  # of its WebP
GAIN = 8.0  # a difference of 32 levels is white
STYLE = """
:root { color-scheme: light dark; --rule: #8884; --bad: #c8372d; --good: #23855a; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1100px; padding: 20px 14px 50px; }
h2 { font-size: 17px; border-top: 1px solid var(--rule); padding-top: 14px; }
img { display: block; max-width: 100%; height: auto; margin: 2px 0 8px; }
table { border-collapse: collapse; } td { padding: 2px 16px 2px 0; vertical-align: top; overflow-wrap: anywhere; }
.failed { color: var(--bad); font-weight: 600; } .passed { color: var(--good); }
"""


def strip(video: Path) -> bytes:
    """Take evenly spaced pictures of a video, side by side, as WebP."""
    wanted = set(np.linspace(0, probe_video(video).num_frames - 1, PICTURES).round().astype(int).tolist())
    pictures = []
    for frame in read_frames(video, wanted):
        picture = Image.fromarray(frame.rgb)
        size = (round(HEIGHT * picture.width / picture.height), HEIGHT)
        pictures.append(picture.resize(size, Image.Resampling.BOX))
    row = Image.new("RGB", (sum(picture.width for picture in pictures), HEIGHT))
    for number, picture in enumerate(pictures):
        row.paste(picture, (number * picture.width, 0))
    data = io.BytesIO()
    row.save(data, format="webp", quality=QUALITY, method=4)
    return data.getvalue()


def heat_map(ours: bytes, theirs: bytes) -> bytes:
    """Draw the differences of two strips as PNG: black where they are equal, then red, yellow and white."""
    left, right = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32) for data in (ours, theirs))
    if left.shape != right.shape:
        right = np.asarray(Image.open(io.BytesIO(theirs)).convert("RGB").resize(left.shape[1::-1]), np.float32)
    heat = np.clip(GAIN * np.abs(left - right).mean(2), 0, 255) / 255 * 3
    channels = np.stack([np.clip(heat - start, 0, 1) for start in range(3)], 2)
    data = io.BytesIO()
    Image.fromarray((255 * channels).round().astype(np.uint8)).save(data, format="png")
    return data.getvalue()


def write_page(path: Path, cases: Sequence[dict[str, Any]], strips: dict[str, tuple[bytes, bytes | None]]) -> None:
    """Write the page.

    Args:
        path: of the page.
        cases: comparisons, see `flows.regression`.
        strips: of each job that was rendered: of this render, and of the baseline where one is stored.
    """
    parts = []
    for job in dict.fromkeys(case["job"] for case in cases):
        parts.append(f"<h2>{html.escape(job)}</h2>")
        if job in strips:
            parts += _pictures(*strips[job])
        parts += ["<table>", *(_row(case) for case in cases if case["job"] == job), "</table>"]
    failed = sum(not case["passed"] for case in cases)
    title = f"regression: {failed} of {len(cases)} comparisons failed" if failed else "regression: passed"
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "\n".join([head, f"<h1>{title}</h1>", *parts]).encode())


def _pictures(ours: bytes, theirs: bytes | None) -> list[str]:
    rows = [("this render", _image("webp", ours))]
    if theirs is not None:
        rows += [("baseline", _image("webp", theirs)), ("differences", _image("png", heat_map(ours, theirs)))]
    else:
        rows += [("baseline", "no pictures are stored; <code>liveavatar regress --update</code> stores them")]
    return [f"<div>{name}{picture}</div>" for name, picture in rows]


def _image(kind: str, data: bytes) -> str:
    return f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def _row(case: dict[str, Any]) -> str:
    grade = "passed" if case["passed"] else "failed"
    cells = (case["name"], case["detail"], case["how"])
    told = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
    return f'<tr><td class="{grade}">{grade}</td>{told}</tr>'
