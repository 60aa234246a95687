"""Audio + portrait + prompt -> video + report: the eight stages in order.

Each stage is a cached task over the artefact store, so that a second run of the same job makes nothing and a run
with another prompt makes only what the prompt decides.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows import preflight
from flows.parameters import RenderParameters
from flows.serving import environment
from liveavatar.checkpoints.directory import read_config, resolve_model_dir
from liveavatar.files import sha256

environment.prepare()

from prefect import flow  # noqa: E402 (Prefect reads the environment when it is imported)

from liveavatar import hardware  # noqa: E402
from tasks import enhance, features, ingest, manifest, plan, prompt, publish, quality  # noqa: E402
from tasks import render as engine  # noqa: E402
from tasks.stage import cached  # noqa: E402
from tasks.store import machine  # noqa: E402
from tasks.store.keys import StageKey, stage_key  # noqa: E402
from tasks.store.model import digest_of  # noqa: E402
from tasks.store.store import Store  # noqa: E402

STAGES = (enhance, features, plan, prompt, engine, quality)
RUN_CODE = (*ingest.SOUND_CODE, *ingest.PORTRAIT_CODE, *ingest.POSE_CODE, *(m for stage in STAGES for m in stage.CODE))
RUN_PACKAGES = (
    *(*ingest.SOUND_PACKAGES, *ingest.PORTRAIT_PACKAGES, *ingest.POSE_PACKAGES),
    *(package for stage in STAGES for package in stage.PACKAGES),
)


@flow(name="render", flow_run_name="render-{parameters.model}-{parameters.seed}", persist_result=False)
def render(parameters: RenderParameters) -> dict[str, Any]:
    """Make a talking avatar from sound, a portrait and a prompt.

    Returns:
        `out` (folder), `status` (passed, warned or failed), `report` (content of report.json).
    """
    started = time.perf_counter()
    preflight.refuse_pipe(parameters)
    preflight.check(parameters)
    model_dir = resolve_model_dir(parameters.model)
    model_digest = digest_of(model_dir)
    max_frames = parameters.num_clip * parameters.infer_frames if parameters.num_clip else None

    inputs = ingest.ingest(
        parameters.audio, parameters.image, str(model_dir), parameters.area(), max_frames, parameters.pose_video
    )
    cleaned = enhance.enhance(inputs.sound, parameters.denoise, parameters.whisper)
    driving = features.features(cleaned, str(model_dir))
    checked = prompt.prompt_check(parameters.prompt)
    picture, num_frames = inputs.portrait.values, driving.values["num_frames"]
    planned = plan.plan(
        read_config(model_dir),
        plan.job_of(
            {**parameters.model_dump(), "placement": _asked(parameters)},
            picture["width"],
            picture["height"],
            num_frames,
        ),
        machine_of(parameters),
    )
    rendered = engine.render(
        options_of(parameters, _ranks(parameters, planned.values), plan.kv_dtype_of(planned.values)),
        str(model_dir),
        model_digest,
        cleaned,
        driving,
        inputs.portrait,
        inputs.pose,
    )
    judged = quality.judge(rendered, cleaned, inputs.portrait)

    stages = (inputs, cleaned, driving, checked, planned, rendered, judged)
    published = publish.publish(
        manifest.Results(
            sound=inputs.sound,
            portrait=inputs.portrait,
            cleaned=cleaned,
            features=driving,
            prompt=checked,
            plan=planned,
            rendered=rendered,
            quality=judged,
            pose=inputs.pose,
        ),
        manifest.Publication(
            out=preflight.claim_output(parameters),
            audio=Path(parameters.audio),
            image=Path(parameters.image),
            pose_video=Path(parameters.pose_video) if parameters.pose_video else None,
            model_dir=model_dir,
            model_digest=model_digest,
            parameters=parameters.model_dump(),
            total_s=time.perf_counter() - started,
            cached_tasks=sum(stage.hit for stage in stages),
        ),
    )
    cached(run_key(parameters), lambda _: {}, force=not published.hit)
    return tidied(published)


def tidied(published: publish.PublishedRun) -> dict[str, Any]:
    """Make room in the store and among the work folders, then tell what a flow returns."""
    Store().collect(*environment.store_limits())
    engine.forget_work(environment.STORE_DAYS)
    return {"out": str(published.out), "status": published.report["status"], "report": published.report}


def run_key(parameters: RenderParameters) -> StageKey:
    """Key of a whole run, found without running any stage: it tells whether anything is left to render."""
    asked = parameters.model_dump(exclude={"out", "resume", "force", "audio", "image", "pose_video"})
    inputs = {
        "options": asked,
        "audio": sha256(Path(parameters.audio)),
        "image": sha256(Path(parameters.image)),
        "pose": sha256(Path(parameters.pose_video)) if parameters.pose_video else None,
        "model": digest_of(resolve_model_dir(parameters.model)),
        "machine": machine.signature(),
    }
    return stage_key("run", inputs, RUN_CODE, RUN_PACKAGES)


def remembers(parameters: RenderParameters) -> bool:
    """Whether this run was made before, so that most likely no engine is needed."""
    return not parameters.force and Store().get("run", run_key(parameters).digest) is not None


def begin(parameters: RenderParameters) -> None:
    """Have the engine load while other things happen."""
    model_dir = resolve_model_dir(parameters.model)
    engine.begin_loading(model_dir, options_of(parameters, _ranks(parameters)))


def _asked(parameters: RenderParameters) -> str:
    """The placement to plan for. A job is spread over GPUs only when that is asked for: what does not fit one is
    refused, and the refusal names the placement that fits.
    """
    return "single" if parameters.placement == "auto" and machine.accelerators() else parameters.placement


def machine_of(parameters: RenderParameters) -> hardware.Machine:
    """This machine, with as many of its GPUs as the job may have."""
    here = hardware.detect_machine(preflight.output_folder(parameters))
    return replace(here, gpus=here.gpus[: parameters.num_gpus])


def _ranks(parameters: RenderParameters, planned: dict[str, Any] | None = None) -> int:
    """Processes that share the steps of a job, as the options or the planner say."""
    placement = parameters.placement if planned is None else planned["placement"]
    if placement != "tpp":
        return 1
    gpus = len(machine.accelerators())
    most = min(parameters.num_gpus or gpus or plan.CPU_RANKS, parameters.sample_steps + 1)
    return most if planned is None or not gpus else len(planned["per_gpu_gb"])


def options_of(parameters: RenderParameters, ranks: int, kv_cache_dtype: str = "auto") -> engine.RenderOptions:
    """What the engine sees of the options, and of what the planner chose."""
    return engine.RenderOptions(
        prompt=parameters.prompt,
        seed=parameters.seed,
        sample_steps=parameters.sample_steps,
        infer_frames=parameters.infer_frames,
        online=parameters.enable_online_decode,
        fp8=parameters.fp8,
        kv_cache_dtype=kv_cache_dtype,
        offload=bool(parameters.offload_model),
        ranks=ranks,
        resume=parameters.resume,
        force=parameters.force,
    )
