"""Audio + portrait + prompt -> video + report: the eight stages in order.

Each stage is a cached task over the artefact store, so that a second run of the same job makes nothing and a run
with another prompt makes only what the prompt decides.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from flows import preflight
from flows.cancelling import unless_cancelled
from flows.counters import tallied
from flows.parameters import RenderParameters, given_parameters
from flows.run_name import render_name
from flows.run_record import named, result_of, run_log, verdict_state
from flows.serving import environment
from flows.serving.lost_runs import note_run
from liveavatar.audio.encoders import encoder_kind
from liveavatar.checkpoints.directory import read_config, resolve_model_dir
from liveavatar.config import ModelConfig
from liveavatar.errors import CapacityError
from liveavatar.hardware import Machine
from liveavatar.planning.request import PlanRequest

environment.import_prefect()

from httpx import HTTPError  # noqa: E402
from prefect import Flow, flow  # noqa: E402 (Prefect reads the environment when it is imported)
from prefect.states import State  # noqa: E402

from tasks import enhance, features, ingest, manifest, plan, prompt, publish, quality  # noqa: E402
from tasks import render as engine  # noqa: E402
from tasks.cluster.replicas import Replicas  # noqa: E402
from tasks.events import Event, emit  # noqa: E402
from tasks.inputs import JobInputs  # noqa: E402
from tasks.render_code import job_code  # noqa: E402
from tasks.stage import cached  # noqa: E402
from tasks.store import machine  # noqa: E402
from tasks.store.keys import StageKey, code_parts, stage_key  # noqa: E402
from tasks.store.model import digest_of  # noqa: E402
from tasks.store.store import Entry, Store  # noqa: E402

log = logging.getLogger(__name__)

STAGES = (enhance, features, plan, prompt, quality)
RUN_CODE = (*ingest.SOUND_CODE, *ingest.PORTRAIT_CODE, *ingest.POSE_CODE, *(m for stage in STAGES for m in stage.CODE))
RUN_PACKAGES = (
    *(*ingest.SOUND_PACKAGES, *ingest.PORTRAIT_PACKAGES, *ingest.POSE_PACKAGES),
    *(package for stage in (*STAGES, engine) for package in stage.PACKAGES),
    *engine.GPU_PACKAGES,
)


# Prefect's own check of parameters would name a wrong option without its value, and not say what to do
@flow(
    name="render",
    flow_run_name=named(render_name),
    persist_result=False,
    on_running=[note_run],
    validate_parameters=False,
)
def render(parameters: RenderParameters) -> State[dict[str, Any]]:
    """Make a talking avatar from sound, a portrait and a prompt.

    Returns:
        the verdict as a state, Failed when the quality failed, with the result: `out` (folder), `status` (passed,
        warned or failed), `report` (content of report.json). `result_of` runs a flow and returns it.
    """
    with run_log():
        return unless_cancelled(lambda: verdict_state(run_job(given_parameters(parameters))))


def run_render(parameters: RenderParameters, inputs: JobInputs) -> dict[str, Any]:
    """Run the render flow of a command; return its result, also when the Prefect server is lost before the end.

    Raises:
        CapacityError: the server was lost before there was a result.
    """
    results: list[dict[str, Any]] = []
    try:
        return result_of(render_flow(inputs, on_result=results.append), parameters)
    except HTTPError as e:
        if not results:
            raise CapacityError(f"the Prefect server does not answer ({e}); start it, or unset PREFECT_API_URL") from e
        log.warning("the Prefect server is gone (%s); its record of this run stays incomplete", e)
        return results[0]


def render_flow(
    inputs: JobInputs | None = None,
    replicas: Replicas | None = None,
    on_result: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Flow[[RenderParameters], State[dict[str, Any]]]:
    """Make the render flow of a command that hands objects on to it.

    It comes in through a closure, for Prefect records a flow's parameters as JSON.

    Args:
        inputs: of the job, checked already.
        replicas: engines that the jobs of a batch share.
        on_result: called with the result, before the server hears of it.
    """

    @flow(name="render", flow_run_name=named(render_name), persist_result=False, on_running=[note_run])
    def render(parameters: RenderParameters) -> State[dict[str, Any]]:
        """Make a talking avatar from sound, a portrait and a prompt."""

        def make() -> State[dict[str, Any]]:
            result = run_job(parameters, inputs, replicas)
            on_result(result)
            return verdict_state(result)

        with run_log():
            return unless_cancelled(make)

    return render


def run_job(
    parameters: RenderParameters, inputs: JobInputs | None = None, replicas: Replicas | None = None
) -> dict[str, Any]:
    """Run the stages of a render; see `render` and `render_flow`."""
    with tallied() as tally, Store().using():
        published = _run_stages(parameters, inputs, replicas)
        tally.judged(published.report)
    return tidied(published)


def _run_stages(
    parameters: RenderParameters, inputs: JobInputs | None, replicas: Replicas | None
) -> publish.PublishedRun:
    started = time.perf_counter()
    preflight.refuse_pipe(parameters)
    if inputs is None:
        inputs = preflight.check(parameters)
    else:
        preflight.check_options(parameters)
    model_dir = resolve_model_dir(parameters.model)
    model_digest, config = digest_of(model_dir), read_config(model_dir)
    max_frames = parameters.num_clip * parameters.infer_frames if parameters.num_clip else None

    ingested = ingest.ingest(inputs, str(model_dir), parameters.framing_request(config), max_frames)
    cleaned = enhance.enhance(ingested.sound, parameters.denoise, parameters.whisper)
    driving = features.features(cleaned, str(model_dir))
    checked = prompt.prompt_check(parameters.prompt, parameters.words_heard(config))
    picture, num_frames = ingested.portrait.values, driving.values["num_frames"]
    planned = plan_render(parameters, config, (picture["width"], picture["height"]), num_frames)
    rendered = engine.render(
        planned.options,
        engine.RenderInputs(
            model_dir=model_dir,
            model_digest=model_digest,
            sound=cleaned,
            features=driving,
            portrait=ingested.portrait,
            pose=ingested.pose,
        ),
        replicas,
        planned.options_for_fewer,
    )
    judged = quality.judge(
        rendered, cleaned, ingested.portrait, parameters.allow_unjudged, preflight.limits_of(parameters)
    )
    published = publish_run(
        parameters,
        manifest.Results(
            sound=ingested.sound,
            portrait=ingested.portrait,
            cleaned=cleaned,
            features=driving,
            prompt=checked,
            plan=planned.entry,
            rendered=rendered,
            quality=judged,
            pose=ingested.pose,
        ),
        inputs=inputs,
        total_s=time.perf_counter() - started,
        cached_tasks=sum(stage.hit for stage in (ingested, cleaned, driving, checked, planned.entry, rendered, judged)),
    )
    cached(run_key(parameters, inputs), lambda _: {}, force=not published.hit)
    return published


def plan_render(
    parameters: RenderParameters, model: ModelConfig, size: tuple[int, int], num_frames: int, *, piped: bool = False
) -> "RenderPlan":
    """Plan a render as `liveavatar plan` does.

    Args:
        parameters: of the render.
        model: its config.
        size: (width, height) of the model's video, pixels.
        num_frames: its length.
        piped: whether its sound arrives while it is made.

    Raises:
        CapacityError: it does not fit this machine.
    """
    moved = preflight.moved_size(parameters, model, size)
    if moved is not None:
        emit(Event(kind="note", stage="plan", text=moved))
    request = plan.request_of(parameters.settings(), parameters.model_dump(), *size, num_frames, piped=piped)
    here = preflight.machine_of(parameters)
    return RenderPlan(plan.plan(model, request, here), parameters, model, request, here)


@dataclass(frozen=True, slots=True)
class RenderPlan:
    """The plan of a render, and what it was made of: a render that loses GPUs is planned again for those left."""

    entry: Entry  # its values are the plan
    parameters: RenderParameters
    model: ModelConfig
    request: PlanRequest
    machine: Machine

    @property
    def options(self) -> engine.RenderOptions:
        """Collect the settings of the render and how it is run."""
        return options_of(self.parameters, self.entry.values)

    def options_for_fewer(self, num_gpus: int) -> engine.RenderOptions:
        """Plan the rest of the render for `num_gpus` GPUs; settings stay, and with them every bit.

        Raises:
            CapacityError: it does not fit them.
        """
        dtype = plan.kv_dtype_of(self.entry.values)
        planned = plan.plan_for_fewer(self.model, self.request.changed(kv_cache_dtype=dtype), self.machine, num_gpus)
        return options_of(self.parameters.model_copy(update={"num_gpus": num_gpus}), planned)


def publish_run(
    parameters: RenderParameters,
    results: manifest.Results,
    *,
    inputs: JobInputs,
    total_s: float,
    cached_tasks: int,
    audio_name: str | None = None,
) -> publish.PublishedRun:
    """Publish the results of a run in its output folder.

    Args:
        parameters: of the run.
        results: entries of its stages.
        inputs: its checked inputs, the sound of a pipe as it was recorded.
        total_s: seconds since the run began.
        cached_tasks: stages whose result was in the store.
        audio_name: name of the sound in the report, unless it is that of the file.
    """
    model_dir = resolve_model_dir(parameters.model)
    return publish.publish(
        results,
        manifest.Publication(
            out=preflight.claim_output(parameters),
            inputs=inputs,
            audio_name=audio_name,
            model_dir=model_dir,
            model_digest=digest_of(model_dir),
            parameters=parameters.model_dump(),
            total_s=total_s,
            cached_tasks=cached_tasks,
        ),
    )


def tidied(published: publish.PublishedRun) -> dict[str, Any]:
    """Make room in the store and among the work folders; return the result of a flow."""
    Store().collect(*environment.store_limits())
    engine.drop_stale_work(environment.STORE_DAYS)
    return {"out": str(published.out), "status": published.report["status"], "report": published.report}


def run_key(parameters: RenderParameters, inputs: JobInputs) -> StageKey:
    """Compute the key of a whole run without running any stage; a run in the store has nothing left to render."""
    model_dir = resolve_model_dir(parameters.model)
    options = parameters.model_dump(exclude={"out", "resume", "force", "audio", "image", "pose_video", "preset"})
    parts = {
        "options": options,
        "audio": None if inputs.audio is None else inputs.audio.sha256,
        "image": inputs.image.sha256,
        "pose": None if inputs.pose is None else inputs.pose.sha256,
        "model": digest_of(model_dir),
        "machine": machine.signature(),
    }
    config, posed = read_config(model_dir), inputs.pose is not None
    rendering = job_code(
        config, parameters.settings(), offload=bool(parameters.offload_model), posed=posed,
        on_gpu=bool(machine.accelerators()),
    )  # fmt: skip
    stages = stage_key("run", parts, (*RUN_CODE, encoder_kind(config.speech).module), RUN_PACKAGES)
    return replace(stages, code=stages.code | code_parts(*rendering.modules, left_out=rendering.left_out))


def remembers(parameters: RenderParameters, inputs: JobInputs) -> bool:
    """Tell if this run is in the store, so that most likely no engine is needed."""
    return not parameters.force and Store().find("run", run_key(parameters, inputs).digest) is not None


def begin(parameters: RenderParameters) -> None:
    """Start loading the engine while other stages run, unless only the plan tells over how many GPUs it is spread."""
    model_dir = resolve_model_dir(parameters.model)
    if not _plan_decides_ranks(parameters, read_config(model_dir)):
        engine.begin_loading(model_dir, options_of(parameters))


def _plan_decides_ranks(parameters: RenderParameters, model: ModelConfig) -> bool:
    gpus = machine.accelerators()[: parameters.num_gpus]
    if parameters.placement == "tpp":  # how many a decoder keeps up with, whether it has a GPU of its own, and layers
        return len(gpus) > (1 if model.spreads else parameters.sample_steps)
    return parameters.placement == "auto" and model.spreads and len(gpus) > 1 and not parameters.offload_model


def _ranks(parameters: RenderParameters, planned: dict[str, Any] | None = None) -> int:
    """Count the processes that share the steps of a job, by its options or its plan."""
    placement = parameters.placement if planned is None else planned["placement"]
    if placement != "tpp":
        return 1
    gpus = len(machine.accelerators())
    most = min(parameters.num_gpus or gpus or plan.CPU_RANKS, parameters.sample_steps + 1)
    return most if planned is None or not gpus else len(planned["per_gpu_gb"])


def options_of(parameters: RenderParameters, planned: dict[str, Any] | None = None) -> engine.RenderOptions:
    """Collect the settings of a render and how it is run, with the planner's choices once there is a plan."""
    settings = parameters.settings()
    if planned is not None:
        settings = replace(settings, kv_cache_dtype=plan.kv_dtype_of(planned))
    ranks = _ranks(parameters, planned)
    return engine.RenderOptions(
        settings=settings,
        online=parameters.enable_online_decode,
        offload=bool(parameters.offload_model),
        rings_on_host=planned is not None and planned["rings_on_host"],
        ranks=ranks,
        own_decoder=ranks > parameters.sample_steps if planned is None else planned["own_decoder"],
        layers=() if planned is None else tuple(planned["layers"]),
        leave_gb=parameters.leave_memory or 0.0,
        resume=parameters.resume,
        force=parameters.force,
        ignore_collapse=parameters.ignore_collapse,
    )
