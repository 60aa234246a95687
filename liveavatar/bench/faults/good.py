"""Good videos of the fault bench: true videos under harmless treatments, none of which the verdict may fail.

Sound is treated on the whole video, whose pictures are read once; pictures are cut to a few seconds and coded anew.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from liveavatar.bench.dated import today, write_dated
from liveavatar.bench.faults.harmless import PICTURE, SOUND, Coding, Picture
from liveavatar.bench.faults.plan import SEEN_VIDEOS
from liveavatar.errors import InputError
from liveavatar.quality.evaluate import QualityResult, Watched, measure_video, watch_video
from liveavatar.quality.grades import grades, status_of
from liveavatar.quality.split import Clip
from liveavatar.timing import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME

PICTURE_FRAMES = 100  # of a video whose pictures are treated
WARNED_AT_MOST = 0.03  # share of good videos; none may fail


@dataclass(frozen=True, slots=True)
class GoodRow:
    """One judged good video."""

    video: str
    treatment: str  # empty: untouched
    held_out: bool  # on this clip no limit was set
    status: str
    complaints: dict[str, float | int | None]  # checks that warned or failed, with their values


def treatments(count: int, clips: int) -> list[str]:
    """List the treatments of each clip, pictures and sounds in turn, so that `count` videos come of so many clips.

    Raises:
        InputError: there are not so many.
    """
    mixed = chain.from_iterable(zip_longest(PICTURE, SOUND))
    names = ["", *(name for name in mixed if name is not None)]
    each = -(-count // clips)
    if not 0 < each <= len(names):
        raise InputError(f"--good {count}: give 1 to {len(names) * clips}, {len(names)} for each of {clips} clips")
    return names[:each]


def run_good(
    clips: Sequence[Clip], names: Sequence[str], on_row: Callable[[GoodRow], None] = lambda row: None, threads: int = 1
) -> list[GoodRow]:
    """Judge clips under treatments.

    Args:
        clips: of the evaluation split.
        names: of treatments, as `treatments` lists them.
        on_row: called with every judged video.
        threads: of the landmark network.
    """
    rows = []
    for clip in clips:
        for row in _rows(clip, names, threads):
            rows.append(row)
            on_row(row)
    return rows


def _rows(clip: Clip, names: Sequence[str], threads: int) -> Iterator[GoodRow]:
    photo, speech, frames = clip.photo(), clip.speech(), clip.frames()
    untouched = watch_video(clip.path("film.mkv"), photo, threads=threads)
    for name in names:
        if name in PICTURE:
            treated = PICTURE[name]
            with tempfile.TemporaryDirectory() as folder:
                first, end = treated.part or (0, PICTURE_FRAMES)
                watched = watch_video(write_treated(Path(folder), frames[first:end], treated), photo, threads=threads)
                heard = speech[first * SAMPLES_PER_FRAME : end * SAMPLES_PER_FRAME]
                yield _row(clip, name, _measured(watched, heard))
        else:
            yield _row(clip, name, _measured(untouched, SOUND[name](speech) if name else speech))


def write_treated(folder: Path, frames: np.ndarray, treated: Picture) -> Path:
    """Write treated frames (uint8 [T, H, W, 3]) as a video without sound."""
    changed = (treated.change(frame.astype(np.float32), t) for t, frame in enumerate(frames))
    return _coded(folder, (np.clip(np.rint(frame), 0, 255).astype(np.uint8) for frame in changed), treated.coding)


def _coded(folder: Path, frames: Iterator[np.ndarray], coding: Coding) -> Path:
    import av

    path = folder / f"video.{coding.container}"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(coding.codec, rate=FPS)
        stream.pix_fmt, stream.options = "yuv420p", {"crf": str(coding.crf), "preset": "veryfast", "cpu-used": "8"}
        if coding.codec == "libx265":
            stream.options |= {"x265-params": "log-level=none"}
        for index, frame in enumerate(frames):
            if not index:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def _measured(watched: Watched, sound: np.ndarray) -> QualityResult:
    """Measure against a sound that counts as the video's own track."""
    info = replace(watched.info, audio_seconds=len(sound) / SAMPLE_RATE)
    return measure_video(replace(watched, info=info), sound.astype(np.float32))


def _row(clip: Clip, name: str, result: QualityResult) -> GoodRow:
    found = grades(result)
    bad = [check for check, grade in found.items() if grade in ("warned", "failed")]
    return GoodRow(
        video=clip.info.name,
        treatment=name,
        held_out=clip.info.name not in SEEN_VIDEOS,
        status=status_of(found),
        complaints={check: result.metrics.get(check) for check in bad},
    )


def summary(rows: Sequence[GoodRow]) -> dict[str, Any]:
    """Count the grades of all good videos and of those on whose clips no limit was set."""
    parts = {"good": rows, "held_out": [row for row in rows if row.held_out]}
    counts = {name: Counter(row.status for row in part) for name, part in parts.items()}
    return {
        name: {"videos": len(parts[name]), **{status: count[status] for status in ("passed", "warned", "failed")}}
        for name, count in counts.items()
    }


def fine(rows: Sequence[GoodRow]) -> bool:
    """Tell that none failed and few warned."""
    good = summary(rows)["good"]
    return not good["failed"] and good["warned"] <= WARNED_AT_MOST * good["videos"]


def markdown(rows: Sequence[GoodRow], heading: str) -> str:
    """Write the counts, a line for each treatment, as a page of Markdown."""
    lines = [f"# {heading}", "", "| part | videos | passed | warned | failed |", "|---|---|---|---|---|"]
    names = {"good": "good videos", "held_out": "of these, of clips that set no limit"}
    for key, part in summary(rows).items():
        lines.append(f"| {names[key]} | " + " | ".join(str(part[column]) for column in part) + " |")
    lines += ["", "| treatment | passed / warned / failed | complaints |", "|---|---|---|"]
    for name in dict.fromkeys(row.treatment for row in rows):
        group = [row for row in rows if row.treatment == name]
        count = Counter(row.status for row in group)
        said = [f"{row.video}: {_said(row)}" for row in group if row.complaints]
        grades = " / ".join(str(count[status]) for status in ("passed", "warned", "failed"))
        lines.append(f"| {name or 'none'} | {grades} | {'; '.join(said)} |")
    return "\n".join(lines) + "\n"


def write_report(rows: Sequence[GoodRow], folder: Path) -> Path:
    """Write the counts (`good_<date>.md`) and the rows (.json) into a folder; return the page."""
    page = markdown(rows, f"Good videos under harmless treatments, {today()}")
    return write_dated(folder, f"good_{today()}", page, {**summary(rows), "rows": [asdict(row) for row in rows]})


def _said(row: GoodRow) -> str:
    values = (f"{name} {'' if value is None else f'{value:.3g}'}".strip() for name, value in row.complaints.items())
    return ", ".join(values)
