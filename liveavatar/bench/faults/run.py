"""Run of the fault bench: plant every fault in true videos of the evaluation split, and grade what comes out.

Pictures are cut to a few seconds and coded anew; sound is planted on the whole, untouched video, whose pictures are
read once. Limits were set on a part of the faults and videos (`is_held_out` False) and are reported on the others too.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from liveavatar.bench.faults import plan
from liveavatar.bench.faults.picture import Original
from liveavatar.quality.causes import headline
from liveavatar.quality.evaluate import QualityResult, Watched, measure_video, watch_video
from liveavatar.quality.grades import grades, status_of
from liveavatar.quality.split import Clip, load_split
from liveavatar.timing import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME

PICTURE_FRAMES = 100  # of a video with a planted picture
CRF = 12  # of such a video: the planted fault is to be judged, not the coder
NOSE, MOUTH, RIGHT_EYE, LEFT_EYE = [27, 30, 33], slice(48, 68), slice(36, 42), slice(42, 48)  # of 68 landmarks


@dataclass(frozen=True, slots=True)
class Row:
    """One judged video of the bench."""

    video: str
    fault: str  # empty: a good video
    strength: float
    slight: bool  # a person sees it only on looking for it
    held_out: bool
    status: str
    fired: tuple[str, ...]  # checks that failed
    said: str  # what the verdict's first line says


def run_bench(
    clips: list[Clip], faults: list[plan.Fault], on_row: Callable[[Row], None] = lambda row: None, threads: int = 2
) -> list[Row]:
    """Judge the clips untouched and treated, and with every fault.

    Args:
        clips: of the evaluation split; faults take other sounds and faces from its other clips.
        faults: those to plant.
        on_row: called with every judged video.
        threads: of the landmark network.
    """
    rows: list[Row] = []
    everything = load_split()
    for clip in clips:
        for row in _rows_of(clip, everything, faults, threads):
            rows.append(row)
            on_row(row)
    return rows


def _rows_of(clip: Clip, split: list[Clip], faults: list[plan.Fault], threads: int) -> Iterator[Row]:
    photo, speech = clip.photo(), clip.speech()
    alike = [c for c in split if c.info.orientation == clip.info.orientation and c.info.name != clip.info.name]
    untouched = watch_video(clip.path("film.mkv"), photo, threads=threads)
    yield _row(clip, None, _measured(untouched, speech))
    donor = alike[0].speech()
    for fault in (f for f in faults if f.in_sound):
        planted = plan.SOUND[fault.name][0](speech, donor, fault.strength)
        yield _row(clip, fault, _measured(untouched, planted))
    original = _original(clip, alike[0].photo())
    for fault in (f for f in faults if not f.in_sound):
        frames = plan.PICTURE[fault.name][0](original, fault.strength)
        with tempfile.TemporaryDirectory() as folder:
            video = write_frames(Path(folder) / "video.mp4", frames)
            watched = watch_video(video, photo, threads=threads)
            yield _row(clip, fault, _measured(watched, speech[: PICTURE_FRAMES * SAMPLES_PER_FRAME]))


def _measured(watched: Watched, sound: np.ndarray) -> QualityResult:
    """Measure against a sound that counts as the video's own track."""
    info = replace(watched.info, audio_seconds=len(sound) / SAMPLE_RATE)
    return measure_video(replace(watched, info=info), sound)


def _original(clip: Clip, other: np.ndarray) -> Original:
    landmarks = clip.labels().landmarks[:PICTURE_FRAMES]
    eyes = landmarks[0, RIGHT_EYE].mean(0) - landmarks[0, LEFT_EYE].mean(0)
    return Original(
        frames=clip.frames()[:PICTURE_FRAMES],
        face=landmarks[:, NOSE].mean(1),
        mouth=landmarks[:, MOUTH].mean(1),
        eyes=float(np.hypot(*eyes)),
        other=other,
    )


def _row(clip: Clip, fault: plan.Fault | None, result: QualityResult) -> Row:
    found = grades(result)
    return Row(
        video=clip.info.name,
        fault="" if fault is None else fault.name,
        strength=0.0 if fault is None else fault.strength,
        slight=fault is not None and fault.slight,
        held_out=is_held_out(clip, fault),
        status=status_of(found),
        fired=tuple(name for name, grade in found.items() if grade == "failed"),
        said=headline(found, result.metrics, result.reasons, result.worst_seconds),
    )


def is_held_out(clip: Clip, fault: plan.Fault | None) -> bool:
    """Tell a video of the part on which no limit was set: other videos, and other kinds of faults."""
    return clip.info.name not in plan.SEEN_VIDEOS or (fault is not None and fault.name in plan.HELD_OUT)


def write_frames(path: Path, frames: np.ndarray, crf: int = CRF) -> Path:
    """Code frames (uint8 [T, H, W, 3], even sides) as H.264 without sound."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.options = {"crf": str(crf), "preset": "veryfast"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    return path
