"""`report.html`: one page about one run that opens offline, the video inside it.

Everything shown is read from the run's folder (`video.mp4`, the parquet tables, `audio/`) and from the dictionary of
`report.json`; parts that are not there are left out. The page's look and behaviour are in `page.html`, its words
in `wording.py`.
"""

import base64
import io
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from liveavatar.files import disk_errors, read_bytes, read_json, write_atomically
from liveavatar.media.ffmpeg import VideoInfo, probe_video, read_frames, read_video_audio
from liveavatar.quality.sync import WINDOW, Speech, window_lags
from liveavatar.report import plots, wording
from liveavatar.report.moments import moments_of_checks, without_blinks, worst_moments
from liveavatar.report.wording import number
from liveavatar.timing import BLOCK_SECONDS, FPS, SAMPLE_RATE

if TYPE_CHECKING:
    import jinja2
    import pandas as pd

PAGE = "report.html"
SHEET = "sheet.jpg"
TEMPLATE = Path(__file__).with_name("page.html")
EMBED_BYTES = 64 * 2**20  # a larger video is linked, or browsers give up on the page
SHEET_FRAMES = 12
SHEET_WIDTH = 240  # pixels of one picture of the contact sheet
SHEET_COLUMNS = 4  # of the sheet as one picture
RANK_COLOURS = ("var(--accent)", "var(--mouth)", "var(--sound)", "var(--good)", "var(--warn)", "var(--none)")
PLOTTED_WORDS_SECONDS = 90  # longer videos show their words as text only; side by side they could not be read


@dataclass(frozen=True, slots=True)
class Figure:
    """One plot of the page."""

    title: str
    svg: str
    legend: tuple[tuple[str, str], ...]  # (colour, label)
    note: str = ""


def write_report(out_dir: Path, report: Mapping[str, Any], name: str = "") -> Path:
    """Write the page of a run, and its contact sheet as one picture, `sheet.jpg`.

    Args:
        out_dir: the run's folder; `video.mp4` must be there, `frames.parquet`, `blocks.parquet`,
            `audio/cleaned.wav` and `audio/words.json` may be.
        report: the content of `report.json`.
        name: heading; the folder's name when empty.

    Returns:
        path of `report.html`.

    Raises:
        InputError: when the video cannot be read.
        CapacityError: disk full.
    """
    video = out_dir / "video.mp4"
    frames, blocks = _table(out_dir / "frames.parquet"), _table(out_dir / "blocks.parquet")
    info = probe_video(video)
    words = _words(out_dir / "audio" / "words.json")
    sheet, moments = sheet_and_moments(video, info.num_frames, frames, report)
    html = _template().render(
        name=name or report.get("name") or out_dir.name,
        report=report,
        info=info,
        video_src=_video_source(video),
        verdict=wording.VERDICTS.get(report["status"], ""),
        timing=wording.timing,
        sheet=sheet,
        moments=moments,
        figures=_sound_figures(video, info, frames, words) + _face_figures(frames),
        timing_figures=_timing_figures(blocks, report.get("timing") or {})
        + _memory_figures(blocks, (report.get("memory") or {}).get("ranks", ())),
        words=words,
        portrait=((report.get("inputs") or {}).get("image") or {}).get("check"),
        failures=[c for c in report.get("checks", ()) if c["status"] in ("failed", "warned")],
        sections=[(title, _flat(report[key])) for title, key in _SECTIONS if report.get(key)],
    )
    target = out_dir / PAGE
    with disk_errors(target):
        write_atomically(target, html)
        write_atomically(out_dir / SHEET, sheet_picture(sheet))
    return target


_SECTIONS = (
    ("Inputs", "inputs"),
    ("Parameters", "parameters"),
    ("Plan", "plan"),
    ("Memory", "memory"),
    ("Sound", "audio"),
    ("Prompt", "prompt"),
    ("Engine", "engine"),
)


def sheet_and_moments(
    video: Path, num_frames: int, frames: "pd.DataFrame | None", report: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read, in one pass, evenly spaced pictures of a video and those of the worst moments, with what is wrong there.

    Returns:
        `SHEET_FRAMES` mappings (fewer for shorter videos) with `src`, `seconds` and `frame`; the moments' with `label`.
    """
    evenly = np.linspace(0, max(0, num_frames - 1), min(SHEET_FRAMES, max(1, num_frames))).round().astype(int).tolist()
    placed = moments_of_checks(report.get("checks", ()), report.get("worst_seconds", {}))
    moments = [] if frames is None else worst_moments(frames, placed)
    pictures = _pictures(video, {*evenly, *(moment.frame for moment in moments)})
    return (
        [pictures[frame] for frame in evenly if frame in pictures],
        [{**pictures[m.frame], "label": m.label} for m in moments if m.frame in pictures],
    )


def sheet_picture(sheet: Sequence[Mapping[str, Any]]) -> bytes:
    """Join the pictures of a contact sheet, rows of four, into one JPEG."""
    from PIL import Image

    images = [Image.open(io.BytesIO(base64.b64decode(picture["src"].partition(",")[2]))) for picture in sheet]
    width, height = images[0].size
    columns = min(SHEET_COLUMNS, len(images))
    joined = Image.new("RGB", (columns * width, -(-len(images) // columns) * height))
    for i, image in enumerate(images):
        joined.paste(image, (i % columns * width, i // columns * height))
    data = io.BytesIO()
    joined.save(data, "JPEG", quality=82)
    return data.getvalue()


@cache
def _template() -> "jinja2.Template":
    """Compile the template of the page; a batch writes many pages."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "number": number,
        "title_of": wording.title,
        "fault_of": wording.fault,
        "value_of": lambda check: wording.value_of(check["name"], check["value"]),
        "plain_name": wording.plain_name,
    }
    return environment.from_string(TEMPLATE.read_text())


def _pictures(video: Path, numbers: Collection[int]) -> dict[int, dict[str, Any]]:
    """Read frames of a video by their numbers, as small data URLs."""
    from PIL import Image

    pictures = dict[int, dict[str, Any]]()
    for frame in read_frames(video, numbers):
        image = Image.fromarray(frame.rgb)
        image.thumbnail((SHEET_WIDTH, SHEET_WIDTH * 2))
        data = io.BytesIO()
        image.save(data, "JPEG", quality=82)
        pictures[frame.index] = {
            "src": _data_url("image/jpeg", data.getvalue()), "seconds": frame.seconds, "frame": frame.index
        }  # fmt: skip
    return pictures


def _video_source(video: Path) -> str:
    if video.stat().st_size > EMBED_BYTES:
        return video.name
    return _data_url("video/mp4", read_bytes(video))


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _table(path: Path) -> "pd.DataFrame | None":
    import pandas as pd

    return pd.read_parquet(path) if path.is_file() else None


def _words(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    content = read_json(path)
    return list(content["words"] if isinstance(content, dict) else content)


def _sound_figures(
    video: Path, info: VideoInfo, frames: "pd.DataFrame | None", words: Sequence[Mapping[str, Any]]
) -> list[Figure]:
    figures = []
    cleaned = video.parent / "audio" / "cleaned.wav"
    if cleaned.is_file() or info.audio_seconds is not None:
        audio = read_video_audio(cleaned if cleaned.is_file() else video)
        audio = audio[: round(info.video_seconds * SAMPLE_RATE)]
        shown = words if info.video_seconds <= PLOTTED_WORDS_SECONDS else ()
        svg = plots.waveform(audio, SAMPLE_RATE, shown, info.video_seconds)
        figures.append(Figure("Sound and words", svg, ()))
    if frames is None or not frames["openness"].notna().any():
        return figures
    seconds = frames["seconds"].to_numpy()
    mouth, sound = _unit(frames["openness"].to_numpy()), _unit(frames["envelope"].to_numpy())
    axis = plots.Axis(seconds=info.video_seconds, low=0, high=1.02, height=190)
    lines = [
        plots.Line(seconds=seconds, values=sound, colour="var(--sound)", label="loudness of the sound", filled=True),
        plots.Line(seconds=seconds, values=mouth, colour="var(--mouth)", label="mouth openness"),
    ]
    svg = plots.line_plot(lines, axis, "mouth against sound", shade=_runs(frames["silence"].to_numpy()))
    legend = (*((line.colour, line.label) for line in lines), ("var(--shade)", "silence: the mouth should rest"))
    figures.append(Figure("Mouth against sound", svg, legend, "each scaled to its own range"))
    speech = Speech(frames["envelope"].to_numpy(), frames["vowel_envelope"].to_numpy())
    lags = window_lags(frames["openness"].to_numpy(), speech)
    if lags:
        middle = np.array([start + WINDOW / 2 for start, _ in lags]) / FPS
        values = np.array([lag for _, lag in lags], float)
        axis = plots.Axis(seconds=info.video_seconds, low=-8.5, high=8.5, height=120)
        line = plots.Line(seconds=middle, values=values, colour="var(--mouth)", label="frames the picture is late")
        svg = plots.line_plot([line], axis, "lips against the sound", limits=((0.0, ""),))
        figures.append(
            Figure(
                "Lips against the sound, two seconds at a time", svg, ((line.colour, line.label),), "zero is in time"
            )
        )
    return figures


def _face_figures(frames: "pd.DataFrame | None") -> list[Figure]:
    if frames is None:
        return []
    seconds = frames["seconds"].to_numpy()
    length = float(seconds[-1]) + 1 / FPS
    figures = []
    rows = (
        ("identity", "Likeness to the portrait", "1 is the same face; blinks are left out", ((0.5, "another person"),)),
        (
            "sharpness_ratio",
            "Sharpness of the face",
            "detail over the portrait's; blinks are left out",
            ((1.0, "portrait"),),
        ),
        ("change", "Change from frame to frame", "mean difference in grey levels, of 255", ()),
    )
    for column, title, label, limits in rows:
        values = frames[column].to_numpy(float)
        seen = np.isfinite(values)
        if seen.sum() < 2:
            continue
        if column != "change":
            values, seen = without_blinks(values), np.ones(len(values), bool)
        low, high = plots.span([values], include=[0.0, *(value for value, _ in limits)])
        axis = plots.Axis(seconds=length, low=low, high=high * 1.05, height=130)
        line = plots.Line(seconds=seconds[seen], values=values[seen], colour="var(--accent)", label=label)
        svg = plots.line_plot([line], axis, title, limits=limits)
        figures.append(Figure(title, svg, ((line.colour, label),)))
    return figures


def _timing_figures(blocks: "pd.DataFrame | None", timing: Mapping[str, Any]) -> list[Figure]:
    if blocks is None or "block_ms" not in blocks or not blocks["block_ms"].notna().any():
        return []
    values = blocks["block_ms"].to_numpy(float)
    deadline = 1000 * BLOCK_SECONDS
    axis = plots.Axis(
        seconds=float(blocks["start_s"].iloc[-1]) + BLOCK_SECONDS, low=0.0, unit="ms",
        high=1.1 * max(deadline, float(np.nanmax(values))), height=170,
    )  # fmt: skip
    label = f"live deadline {deadline:.0f} ms"
    svg = plots.bars(values, axis, "time of each block", (deadline, label), "var(--good)")
    late = int((values > deadline).sum())
    note = f"{late} of {len(values)} blocks took longer than they play"
    if timing.get("ttff_s") is not None:
        note += f"; first picture after {number(float(timing['ttff_s']))} s"
    return [
        Figure(
            "Rendering time of each block (half a second of video), ms",
            svg,
            (("var(--good)", "in time"), ("var(--warn)", "late")),
            note,
        )
    ]


def _memory_figures(blocks: "pd.DataFrame | None", ranks: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Draw the memory of each rank's process and of its GPU after each block."""
    if blocks is None:
        return []
    middle = blocks["start_s"].to_numpy(float) + BLOCK_SECONDS / 2
    figures = []
    for kind, title, whole in (
        ("gpu", "Memory of the GPU while it rendered, GB", "gpu_total_gb"),
        ("host", "Memory of each process while it rendered, GB", ""),
    ):
        columns = [name for name in blocks if re.fullmatch(rf"rank\d+_{kind}_gb", name)]
        if not columns:
            continue
        limits = [(size, "all of it") for size in sorted({rank[whole] for rank in ranks if whole in rank})]
        curves = [blocks[name].to_numpy(float) for name in columns]
        low, high = plots.span(curves, include=[0.0, *(size for size, _ in limits)])
        axis = plots.Axis(
            seconds=float(middle[-1]) + BLOCK_SECONDS / 2, low=low, high=1.1 * high, unit="GB", height=130
        )
        lines = [
            plots.Line(seconds=middle, values=values, colour=RANK_COLOURS[i % len(RANK_COLOURS)], label=f"process {i}")
            for i, values in enumerate(curves)
        ]
        svg = plots.line_plot(lines, axis, title, limits=limits)
        most = max(float(np.nanmax(values)) for values in curves)
        legend = tuple((line.colour, line.label) for line in lines)
        figures.append(Figure(title, svg, legend, f"at most {most:.1f} GB"))
    return figures


def _unit(values: np.ndarray) -> np.ndarray:
    low, high = np.nanpercentile(values, [1, 99])
    return np.clip((values - low) / max(high - low, 1e-9), 0, 1)


def _runs(mask: np.ndarray) -> list[tuple[float, float]]:
    edges = np.flatnonzero(np.diff(np.r_[0, mask.astype(np.int8), 0])) / FPS
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Flatten nested values to (dotted name, text) rows."""
    if isinstance(value, Mapping):
        return [row for key, item in value.items() for row in _flat(item, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(value, list | tuple):
        if all(not isinstance(item, Mapping | list | tuple) for item in value):
            return [(prefix, ", ".join(number(item) for item in value) or "-")]
        return [row for index, item in enumerate(value) for row in _flat(item, f"{prefix}[{index}]")]
    return [(prefix, number(value))]
