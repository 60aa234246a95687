"""Prefect shell of `liveavatar.render.job`: one render on the resident engine, filed in the store when it is whole."""

import contextlib
import json
import logging
import shutil
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

from liveavatar import paths
from liveavatar.files import disk_errors
from tasks.cluster import replicas
from tasks.enhance import CLEANED
from tasks.events import Event, emit
from tasks.features import FEATURES
from tasks.ingest import PORTRAIT, POSE, POSE_PACKAGES
from tasks.stage import cached, stage
from tasks.store import machine
from tasks.store.keys import StageKey, code_digest, job_key, stage_key
from tasks.store.model import digest_of
from tasks.store.store import Entry, Values

if TYPE_CHECKING:
    from liveavatar.engine.settings import RenderSettings
    from tasks.cluster.actor import EngineSpec

log = logging.getLogger(__name__)

VIDEO = "video.mp4"
LATENTS = "latents.bin"
BLOCKS = "blocks.json"
LIVE = "live"
ARTIFACT_SECONDS = 2.0  # between two updates of the progress bar in the Prefect UI
CODE = ("liveavatar.render.job", "liveavatar.distributed.rank")
PACKAGES = ("torch", "numpy", "imageio-ffmpeg", "safetensors")


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderOptions:
    """The parameters of a render that the engine sees."""

    prompt: str
    seed: int
    sample_steps: int
    infer_frames: int
    online: bool
    fp8: bool = False
    kv_cache_dtype: str = "auto"  # as the plan decided it: another job on the same engine may have another
    offload: bool = False
    ranks: int = 1  # processes that share the denoise steps; the latents do not depend on it
    resume: bool = False
    force: bool = False


@stage("render")
def render(
    options: RenderOptions,
    model_dir: str,
    model_digest: str,
    sound: Entry,
    features: Entry,
    face: Entry,
    pose: Entry | None = None,
) -> Entry:
    """Render on the resident engine; the entry holds video.mp4, latents.bin, blocks.json, and live/ when online.

    Args:
        options: what the engine is told.
        model_dir, model_digest: the model.
        sound: entry with the cleaned sound.
        features: entry with the driving features.
        face: entry with the cropped portrait.
        pose: entry with the track of head and eyes; None lets the model move the head.
    """
    key = render_key(options, model_digest, sound, features, face, pose)

    def make(folder: Path, resume: bool = options.resume) -> Values:
        asked = replace(options, resume=resume)
        return _render(folder, key.digest, asked, Path(model_dir), model_digest, (sound, features, face, pose))

    def on_abandoned(folder: Path) -> Values:
        return make(folder, resume=options.resume or work_dir(key.digest).exists())

    return cached(key, make, force=options.force, on_abandoned=on_abandoned)


def render_key(
    options: RenderOptions, model_digest: str, sound: Entry, features: Entry, face: Entry, pose: Entry | None
) -> StageKey:
    """Key of everything that latents and film depend on, the machine's arithmetic included."""
    asked = {k: v for k, v in asdict(options).items() if k not in ("resume", "force", "offload", "ranks")}
    inputs = {
        "options": asked,
        "model": model_digest,
        "sound": sound.files[CLEANED],
        "features": features.files[FEATURES],
        "portrait": face.files[PORTRAIT],
        "pose": None if pose is None else pose.files[POSE],
        "machine": machine.signature(),
    }
    packages = PACKAGES if pose is None else (*PACKAGES, *POSE_PACKAGES)
    return stage_key("render", inputs, CODE, packages)


def begin_loading(model_dir: Path, options: RenderOptions) -> None:
    """Have the resident engine load a model while other stages run."""
    from tasks.cluster.host import host_of

    host_of(engine_spec(model_dir, digest_of(model_dir), options)).begin_loading()


def engine_spec(model_dir: Path, model_digest: str, options: RenderOptions) -> "EngineSpec":
    """Describe the engine of a render."""
    from tasks.cluster.actor import EngineSpec

    return EngineSpec(
        model_dir=model_dir,
        version=job_key("engine", model=model_digest, code=code_digest(*CODE)),
        fp8=options.fp8,
        offload=options.offload,
        ranks=options.ranks,
        own_decoder=options.ranks > options.sample_steps,
    )


def settings_of(options: RenderOptions) -> "RenderSettings":
    """Settings of a render that change its latents."""
    from liveavatar.engine.settings import RenderSettings

    return RenderSettings(**{field.name: getattr(options, field.name) for field in fields(RenderSettings)})


def work_dir(key: str) -> Path:
    """Where the render with this key keeps what it needs to be resumed."""
    return paths.work_folder(key)


def forget_work(days: float) -> None:
    """Drop work folders of renders that nobody resumed for so many days."""
    for entry in paths.work().glob("*"):
        if time.time() - entry.stat().st_mtime > days * 86400:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)


def _render(
    folder: Path,
    key: str,
    options: RenderOptions,
    model_dir: Path,
    model_digest: str,
    entries: tuple[Entry, Entry, Entry, Entry | None],
) -> Values:
    from liveavatar.render.job import RenderJob
    from liveavatar.render.sound import FileSound
    from tasks.cluster.host import host_of

    sound, features, face, pose = entries
    work = work_dir(key)
    with disk_errors(work):
        work.parent.mkdir(parents=True, exist_ok=True)
    job = RenderJob(
        digest=key,
        work_dir=work,
        image=face.path(PORTRAIT),
        pose=None if pose is None else pose.path(POSE),
        sound=FileSound(
            features=features.path(FEATURES), audio=sound.path(CLEANED), num_frames=features.values["num_frames"]
        ),
        settings=settings_of(options),
        online=options.online,
        resume=options.resume,
    )
    spec = engine_spec(model_dir, model_digest, options)
    if options.online:
        emit(Event(kind="note", stage="render", text=f"live while it renders: {work / LIVE / 'index.m3u8'}"))
    load_s: list[float] = []
    with replicas.taken() as number:
        result = host_of(replace(spec, replica=number)).render(job, ProgressBoard().show, load_s.append)
    if result.first_block:
        emit(Event(kind="note", stage="render", text=f"resumed at block {result.first_block}"))
    for text in result.notes:
        emit(Event(kind="note", stage="render", text=text))
    take_over(result, folder)
    shutil.rmtree(work, ignore_errors=True)
    return facts_of(result, load_s[-1])


def take_over(result: Any, folder: Path) -> None:
    """Move what a `liveavatar.render.job.RenderResult` made into an entry's folder."""
    shutil.move(result.video, folder / VIDEO)
    shutil.move(result.latents, folder / LATENTS)
    if result.live_dir is not None:
        shutil.move(result.live_dir, folder / LIVE)
    (folder / BLOCKS).write_text(json.dumps([asdict(row) for row in result.rows]))


def facts_of(result: Any, load_s: float) -> Values:
    """Values of the entry of a `liveavatar.render.job.RenderResult`."""
    from liveavatar.render.timings import stage_summary, timing_summary

    return {
        "latents_sha256": result.latents_sha256,
        "latents_shape": result.latents_shape,
        "num_frames": result.num_frames,
        "first_block": result.first_block,
        "load_s": round(load_s, 3),
        "timing": {
            **timing_summary(result.rows, result.num_frames, result.rows[-1].ready_s),
            "stages": stage_summary(result.rows, result.stages),
        },
        "device": result.device,
        "dtype": result.dtype,
        "machine": machine.signature(),
        "peak_rss_mb": round(result.peak_rss_mb, 1),
        "peak_gpu_mb": result.peak_gpu_mb,
    }


class ProgressBoard:
    """Shows a job's progress to listeners at once and in the Prefect UI every few seconds."""

    def __init__(self) -> None:
        self._artifact: Any = None
        self._shown = 0.0

    def show(self, progress: Any) -> None:
        """Pass on a `liveavatar.render.job.Progress`."""
        emit(
            Event(
                kind="progress",
                stage=progress.phase,
                done=progress.done,
                total=progress.total,
                fps=progress.fps,
            )
        )
        if progress.done < progress.total and time.monotonic() - self._shown < ARTIFACT_SECONDS:
            return
        self._shown = time.monotonic()
        percent = 100.0 * progress.done / progress.total
        with contextlib.suppress(PrefectException, OSError):  # a progress bar must not end a render
            if self._artifact is None:
                self._artifact = create_progress_artifact(progress=percent, key="render-progress", description="render")
            else:
                update_progress_artifact(self._artifact, progress=percent)
