"""Prefect shell of `liveavatar.render.job`: one render on the resident engine, filed in the store when it is whole."""

import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect.artifacts import create_link_artifact, create_progress_artifact, update_progress_artifact

from liveavatar import paths
from liveavatar.checkpoints.directory import read_config
from liveavatar.engine.memory import in_words, shortages
from liveavatar.engine.settings import RenderSettings
from liveavatar.files import disk_errors
from liveavatar.render.collapse import is_watched
from tasks.bookkeeping import recorded
from tasks.cluster.interruption import Interruption
from tasks.cluster.replicas import Replicas
from tasks.enhance import CLEANED
from tasks.events import Event, emit
from tasks.features import FEATURES
from tasks.ingest import CANVAS, PORTRAIT, POSE, POSE_PACKAGES
from tasks.render_code import FACE, FAST, RenderCode, engine_code, job_code, settings_part
from tasks.run_folder import origin_of
from tasks.stage import cached, stage
from tasks.store import machine
from tasks.store.keys import StageKey, code_digest, job_key, stage_key
from tasks.store.model import digest_of
from tasks.store.store import Entry, Values

if TYPE_CHECKING:
    from liveavatar.render.job import CanvasPicture, Progress, RenderJob, RenderResult
    from liveavatar.render.sound import SoundSource
    from tasks.cluster.actor import EngineSpec

log = logging.getLogger(__name__)

VIDEO = "video.mp4"
LATENTS = "latents.bin"
BLOCKS = "blocks.json"
LIVE = "live"
ARTIFACT_SECONDS = 2.0  # between two updates of the progress bar in the Prefect UI
PACKAGES = ("torch", "numpy", "scipy", "imageio-ffmpeg", "safetensors")
GPU_PACKAGES = ("triton", "fa3-fwd")
FACE_PACKAGES = ("opencv-python-headless", "ai-edge-litert")


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderOptions:
    """The settings of a render, and how it is run."""

    settings: RenderSettings
    online: bool  # frames are made while the latents are
    offload: bool = False
    rings_on_host: bool = False  # keys and values of earlier blocks wait in host memory, as the plan says
    ranks: int = 1  # processes that share the denoise steps; the latents do not depend on it
    own_decoder: bool = False  # the last of them decodes and nothing else
    layers: tuple[int, ...] = ()  # that each keeps, where blocks go round; none: each keeps all
    leave_gb: float = 0.0  # of each GPU's memory, for other programs
    resume: bool = False
    force: bool = False
    ignore_collapse: bool = False  # render to the end even if the picture falls apart


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderInputs:
    """Everything a render reads: entries of earlier stages, and the model."""

    model_dir: Path
    model_digest: str
    sound: Entry  # cleaned.wav
    features: Entry
    portrait: Entry  # cropped
    pose: Entry | None = None  # track of head and eyes; None lets the model move the head


@stage("render")
def render(
    options: RenderOptions,
    inputs: RenderInputs,
    replicas: Replicas | None = None,
    replan: Callable[[int], RenderOptions] | None = None,
) -> Entry:
    """Render on the resident engine; the entry holds video.mp4, latents.bin, blocks.json, and live/ when online.

    Args:
        options: settings of the render.
        inputs: sound, portrait, pose and model.
        replicas: engines of a batch, of which the job takes a free one; None: there is one engine.
        replan: plans it for a number of GPUs that are left when some are lost (`run_on_engine`).
    """
    key = render_key(options, inputs)
    interruption = Interruption() if replicas is None else replicas.interruption

    def make(folder: Path, resume: bool = options.resume) -> Values:
        from liveavatar.render.sound import FileSound

        work = work_dir(key.digest)

        sound = FileSound(
            features=inputs.features.path(FEATURES),
            audio=inputs.sound.path(CLEANED),
            num_frames=inputs.features.values["num_frames"],
        )
        job = describe_job(key, replace(options, resume=resume), inputs.portrait, sound, inputs.pose)
        if options.online:
            announce_playlist(work)
        spec = engine_spec(inputs.model_dir, inputs.model_digest, options)
        board = ProgressBoard()

        def run(number: int) -> Outcome:
            nonlocal job
            try:
                own = replace(spec, replica=number, one_of_several=replicas is not None)
                return run_on_engine(own, job, board.show, replan=replan, interruption=interruption)
            finally:
                job = replace(job, resume=True)

        outcome = run(0) if replicas is None else replicas.run(run)
        board.finish()
        if outcome.result.first_block:
            emit(Event(kind="note", stage="render", text=f"resumed at block {outcome.result.first_block}"))
        for text in outcome.result.notes:
            emit(Event(kind="note", stage="render", text=text))
        move_products(outcome.result, folder)
        shutil.rmtree(work, ignore_errors=True)
        return outcome.facts()

    def on_abandoned(folder: Path) -> Values:
        return make(folder, resume=options.resume or work_dir(key.digest).exists())

    return cached(key, make, force=options.force, on_abandoned=on_abandoned, while_waiting=interruption.check)


def render_key(options: RenderOptions, inputs: RenderInputs) -> StageKey:
    """Compute the key of everything that latents and video depend on, the machine's arithmetic included."""
    config = read_config(inputs.model_dir)
    parts = {
        "settings": settings_part(options.settings, config),
        "online": options.online,
        "ignore_collapse": options.ignore_collapse,
        "model": inputs.model_digest,
        "sound": inputs.sound.files[CLEANED],
        "features": inputs.features.files[FEATURES],
        "portrait": inputs.portrait.files[PORTRAIT],
        **canvas_parts(inputs.portrait),
        "pose": None if inputs.pose is None else inputs.pose.files[POSE],
        "machine": machine.signature(),
    }
    code = job_code(
        config, options.settings, offload=options.offload, posed=inputs.pose is not None,
        pasted=is_pasted(inputs.portrait),
        watched=is_watched(inputs.features.values["num_frames"], options.ignore_collapse),
        on_gpu=bool(machine.accelerators()),
    )  # fmt: skip
    packages = (*job_packages(code), *(() if inputs.pose is None else POSE_PACKAGES))
    return stage_key("render", parts, code.modules, packages, code.left_out)


def canvas_parts(portrait: Entry) -> dict[str, Any]:
    """Return the parts of a render's key about the user's picture, where the face is pasted into it."""
    place = portrait.values.get("canvas")
    return {} if place is None else {"canvas": portrait.files[CANVAS], "place": place}


def job_packages(code: RenderCode) -> tuple[str, ...]:
    """Return the packages that a render runs, those of faces and of GPUs where it takes them."""
    faces, fast = (room not in code.left_out for room in (FACE, FAST))
    return (*PACKAGES, *(FACE_PACKAGES if faces else ()), *(GPU_PACKAGES if fast else ()))


def is_pasted(portrait: Entry) -> bool:
    """Tell if the face goes back into the user's picture."""
    return bool(portrait.values.get("canvas"))


def _canvas(portrait: Entry) -> "CanvasPicture | None":
    from liveavatar.media.lips import Lips
    from liveavatar.render.job import CanvasPicture

    place = portrait.values.get("canvas")
    if place is None:
        return None
    lips = None if place["lips"] is None else Lips.from_json(place["lips"])
    return CanvasPicture(portrait.path(CANVAS), tuple(place["box"]), tuple(place["eyes"]), lips)


def describe_job(
    key: StageKey, options: RenderOptions, portrait: Entry, sound: "SoundSource", pose: Entry | None = None
) -> "RenderJob":
    """Describe a render to the engine; makes room for its work folder."""
    from liveavatar.render.job import RenderJob

    work = work_dir(key.digest)
    with disk_errors(work):
        work.parent.mkdir(parents=True, exist_ok=True)
    return RenderJob(
        digest=key.digest,
        origin=origin_of(key.made_from()),
        work_dir=work,
        image=portrait.path(PORTRAIT),
        canvas=_canvas(portrait),
        sound=sound,
        settings=options.settings,
        pose=None if pose is None else pose.path(POSE),
        online=options.online,
        rings_on_host=options.rings_on_host,
        resume=options.resume,
        ignore_collapse=options.ignore_collapse,
    )


def begin_loading(model_dir: Path, options: RenderOptions) -> None:
    """Load a model in the resident engine while other stages run."""
    from tasks.cluster.host import EngineHost

    EngineHost(engine_spec(model_dir, digest_of(model_dir), options)).begin_loading()


def engine_spec(model_dir: Path, model_digest: str, options: RenderOptions) -> "EngineSpec":
    """Describe the engine of a render."""
    from tasks.cluster.actor import EngineSpec

    return EngineSpec(
        model_dir=model_dir,
        version=job_key("engine", model=model_digest, code=code_digest(*engine_code(read_config(model_dir)))),
        fp8=options.settings.fp8,
        offload=options.offload,
        ranks=options.ranks,
        own_decoder=options.own_decoder,
        layers=options.layers,
        leave_gb=options.leave_gb,
    )


def work_dir(key: str) -> Path:
    """Return the folder of an unfinished render, from which it can be resumed."""
    return paths.work_folder(key)


def drop_stale_work(days: float) -> None:
    """Delete work folders of renders that were not resumed for so many days."""
    for entry in paths.work().glob("*"):
        if time.time() - entry.stat().st_mtime > days * 86400:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished render, and the seconds that loading its engine took."""

    result: "RenderResult"
    load_s: float

    def facts(self) -> Values:
        """Collect the values of the render's entry."""
        from liveavatar.render.timings import memory_summary, rank_summary, timing_summary

        result = self.result
        return {
            "latents_sha256": result.latents_sha256,
            "latents_shape": result.latents_shape,
            "num_frames": result.num_frames,
            "first_block": result.first_block,
            "collapse": result.collapse and {"seconds": result.collapse.seconds, "reason": str(result.collapse)},
            "load_s": round(self.load_s, 3),
            "timing": {
                **timing_summary(result.rows, result.num_frames, result.rows[-1].ready_s),
                "stages": rank_summary(result.rows, result.works),
            },
            "device": result.device,
            "dtype": result.dtype,
            "machine": machine.signature(),
            "peak_rss_mb": round(result.peak_rss_mb, 1),
            "peak_gpu_mb": result.peak_gpu_mb,
            "memory": memory_summary(result.rows),
        }


def run_on_engine(
    spec: "EngineSpec",
    job: "RenderJob",
    on_progress: "Callable[[Progress], None]",
    replan: Callable[[int], RenderOptions] | None = None,
    interruption: Interruption | None = None,
) -> Outcome:
    """Render a job on the resident engine.

    Args:
        spec: the engine.
        job: what to render.
        on_progress: called with every new progress.
        replan: returns how the job is run on a number of GPUs that are left, when they are fewer than the engine's
            ranks; raises `CapacityError` when they cannot hold it. Its settings stay.
        interruption: of a job in a thread.
    """
    from tasks.cluster.host import EngineHost

    def fewer(num_gpus: int) -> "EngineSpec":
        assert replan is not None
        options = replan(num_gpus)
        return replace(spec, ranks=options.ranks, own_decoder=options.own_decoder, layers=options.layers)

    load_s: list[float] = []
    host = EngineHost(spec, None if replan is None else fewer)
    result = host.render(job, on_progress, load_s.append, interruption)
    return Outcome(result, load_s[-1])


def announce_playlist(work: Path) -> None:
    """Name the HLS playlist that grows while a job renders, and link to the page that plays it."""
    emit(Event(kind="note", stage="render", text=f"live while it renders: {work / LIVE / 'index.m3u8'}"))
    link = f"{paths.page_url()}#{work.name}"
    recorded(lambda: create_link_artifact(link=link, link_text="watch it while it renders", key="render-live"))


def move_products(result: "RenderResult", folder: Path) -> None:
    """Move the files of a finished render into an entry's folder."""
    shutil.move(result.video, folder / VIDEO)
    shutil.move(result.latents, folder / LATENTS)
    if result.live_dir is not None:
        shutil.move(result.live_dir, folder / LIVE)
    (folder / BLOCKS).write_text(json.dumps([asdict(row) for row in result.rows]))


class ProgressBoard:
    """Passes progress and memory of a job to listeners at once and to the Prefect UI every few seconds.

    The artifact's description has lines: the phase, the memory in words, and a warning for each kind that ran short.
    """

    def __init__(self) -> None:
        self._artifact: Any = None
        self._shown = 0.0
        self._short: dict[str, str] = {}  # what ran short of memory, and the warning as it was said
        self._last: Progress | None = None

    def show(self, progress: "Progress") -> None:
        """Emit progress as an event, and once for each kind of memory that runs short a warning."""
        self._last = progress
        for kind, text in shortages(progress.memory).items():
            if kind not in self._short:
                emit(Event(kind="note", stage=progress.phase, text=text))
            self._short[kind] = text
        emit(
            Event(
                kind="progress",
                stage=progress.phase,
                done=progress.done,
                total=progress.total,
                fps=progress.fps,
                memory=progress.memory,
            )
        )
        if progress.done < progress.total and time.monotonic() - self._shown < ARTIFACT_SECONDS:
            return
        self._shown = time.monotonic()
        percent = 100.0 * progress.done / progress.total
        told = "\n".join([progress.phase, in_words(progress.memory), *self._short.values()])
        if self._artifact is None:
            self._artifact = recorded(
                lambda: create_progress_artifact(progress=percent, key="render-progress", description=told)
            )
        else:
            recorded(lambda: update_progress_artifact(self._artifact, progress=percent, description=told))

    def finish(self) -> None:
        """Show that all is done: the last blocks may have come between two looks at the engine."""
        if self._last is not None and self._last.done < self._last.total:
            self.show(replace(self._last, done=self._last.total))
