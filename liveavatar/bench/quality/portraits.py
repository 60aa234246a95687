"""`liveavatar bench quality --portraits DIR`: every picture of a folder speaks one sample, and its video is measured.

A video is made as a render makes it: the picture is framed for the model, rendered, and the face pasted back.
"""

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from liveavatar.audio.enhance import Enhanced, enhance
from liveavatar.audio.ingest import load_audio
from liveavatar.bench.quality.bench import Say
from liveavatar.bench.quality.portrait_measures import measure_video, read_portrait_video
from liveavatar.bench.quality.portrait_report import portrait_sheet, write_portraits
from liveavatar.bench.quality.recordings import PICTURES, PROMPT, find_files
from liveavatar.bench.quality.videos import Video, make_scene, render_scene
from liveavatar.engine.engine import Engine
from liveavatar.engine.sampling import sigma_steps
from liveavatar.face.landmarks import FaceTracker
from liveavatar.files import plain
from liveavatar.isolation.caller import isolated
from liveavatar.load import load_engine
from liveavatar.media.framing import Framing
from liveavatar.media.portrait import load_portrait
from liveavatar.media.portrait_check import JudgedPortrait, judge_portrait
from liveavatar.paths import DATA
from liveavatar.render.job import CanvasPicture
from liveavatar.timing import SAMPLE_RATE

log = logging.getLogger(__name__)

SPEECH = DATA / "samples" / "speech.wav"
SECONDS = 6.0  # of the sound that each portrait speaks


@dataclass(frozen=True, kw_only=True, slots=True)
class PortraitOptions:
    """Options of a run over a folder of portraits."""

    model_dir: Path
    portraits: Path  # folder of pictures
    audio: Path = SPEECH
    framing: str | None = None  # of the videos; the model's default when None
    steps: int = 4
    out: Path | None = None  # videos, contact sheets and the table go there; nothing is kept when None


def find_portraits(folder: Path) -> list[Path]:
    """List the pictures of a folder, by name; see `find_files`."""
    return find_files("--portraits", folder, "picture", PICTURES)


def run_portraits(options: PortraitOptions, say: Say = log.info) -> dict[str, Any]:
    """Measure a model on a folder of portraits and return the JSON of `bench quality --portraits --json`.

    Raises:
        InputError: no pictures, one that cannot be read, no sound, or a number of steps out of range.
    """
    began = time.perf_counter()
    portraits = {path.name: isolated(load_portrait, path) for path in find_portraits(options.portraits)}
    samples = isolated(load_audio, options.audio, beats=True)[: round(SECONDS * SAMPLE_RATE)]
    engine = load_engine(options.model_dir)
    sigma_steps(engine.config, options.steps)
    judged = {
        name: judge_portrait(rgb, Framing(framing=options.framing), engine.config) for name, rgb in portraits.items()
    }
    sound, tracker, rows = enhance(samples, "auto", "tiny.en"), FaceTracker(), []
    with _workplace(options.out) as folder:
        for name, portrait in judged.items():
            video = _render(engine, portrait, sound, folder / "videos" / name, options.steps)
            made = read_portrait_video(video, shown(portrait), tracker)
            rows.append(_row(name, portrait, video) | measure_video(made, sound.audio, sound.words))
            portrait_sheet(made, folder / f"sheet_{name}.png")
            say(f"{name}: sync error {rows[-1]['sync_error_frames']}, likeness {rows[-1]['likeness']}")
        result: dict[str, Any] = plain(
            {
                "model": options.model_dir.name,
                "steps": options.steps,
                "framing": options.framing or "default",
                "audio": options.audio.name,
                "audio_seconds": len(samples) / SAMPLE_RATE,
                "device": str(engine.device),
                "dtype": str(engine.dtype).removeprefix("torch."),
                "date": time.strftime("%Y-%m-%d"),
                "seconds": round(time.perf_counter() - began, 1),
                "speaking": sum(row["speaks"] for row in rows),
                "worst": min(rows, key=_merit)["picture"],
                "portraits": rows,
            }
        )
        if options.out is not None:
            write_portraits(options.out, result)
    return result


@contextmanager
def _workplace(out: Path | None) -> Iterator[Path]:
    """Provide a folder for videos and sheets: `out`, or a temporary one."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="liveavatar-portraits-") as name:
        yield Path(name)


def shown(portrait: JudgedPortrait) -> np.ndarray:
    """Return the picture that a portrait's video shows, at its size."""
    return portrait.picture if portrait.framed is None else portrait.framed.canvas


def _render(engine: Engine, portrait: JudgedPortrait, sound: Enhanced, folder: Path, steps: int) -> Video:
    scene = make_scene(folder, portrait.picture, sound.audio, PROMPT, engine)
    framed = portrait.framed
    if framed is not None and not framed.is_whole:
        path = folder / "canvas.png"
        Image.fromarray(framed.canvas).save(path)
        scene = replace(scene, canvas=CanvasPicture(path, framed.box, framed.eyes, framed.lips))
    return render_scene(engine, scene, steps)


def _row(name: str, portrait: JudgedPortrait, video: Video) -> dict[str, Any]:
    height, width = shown(portrait).shape[:2]
    check = portrait.check
    return {
        "picture": name,
        "size": f"{width}*{height}",
        "verdict": None if check is None else check.verdict,
        "said": [] if check is None else [*check.reasons, *check.remarks],
        "fps": None if video.ms_per_frame is None else 1000 / video.ms_per_frame,
    }


def _merit(row: dict[str, Any]) -> tuple[bool, float]:
    """Order videos: those that speak in sync above the others, then by the likeness of their worst second."""
    return row["speaks"], -1.0 if row["identity_min"] is None else row["identity_min"]
