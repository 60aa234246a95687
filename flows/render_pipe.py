"""`--audio -`: the stages of a render in the order that sound from a pipe allows: the film first, then the words."""

import time
from pathlib import Path
from typing import Any

from flows import preflight
from flows.parameters import RenderParameters
from flows.serving import environment

environment.prepare()

from prefect import flow  # noqa: E402 (Prefect reads the environment when it is imported)

from flows.render import machine_of, options_of, tidied  # noqa: E402
from liveavatar.checkpoints.directory import read_config, resolve_model_dir  # noqa: E402
from tasks import enhance, features, ingest, manifest, plan, prompt, publish, quality, render_pipe  # noqa: E402
from tasks.store.model import digest_of  # noqa: E402

PLANNED_FRAMES = 15_000  # ten minutes: what room is asked for when no --num_clip tells the length
_listening: list[render_pipe.Listener] = []


def listen(parameters: RenderParameters, pipe: Any) -> render_pipe.Listener:
    """Begin to record a pipe; `render_live` renders it."""
    clips = parameters.num_clip
    seconds = None if clips is None else clips * parameters.infer_frames / parameters.fps
    listener = render_pipe.Listener(pipe, seconds)
    _listening[:] = [listener]
    listener.start()
    return listener


@flow(name="render-live", flow_run_name="live-{parameters.model}-{parameters.seed}", persist_result=False)
def render_live(parameters: RenderParameters) -> dict[str, Any]:
    """Make a talking avatar from the sound that `listen` records, a portrait and a prompt.

    Returns:
        As `flows.render.render`.
    """
    started = time.perf_counter()
    listener = _listening.pop()
    model_dir = resolve_model_dir(parameters.model)
    model_digest = digest_of(model_dir)
    portrait = ingest.portrait(parameters.image, str(model_dir), parameters.area())
    checked = prompt.prompt_check(parameters.prompt)
    frames = parameters.num_clip * parameters.infer_frames if parameters.num_clip else PLANNED_FRAMES
    asked = {**parameters.model_dump(), "placement": "single", "enable_online_decode": True}
    planned = plan.plan(
        read_config(model_dir),
        plan.job_of(asked, portrait.values["width"], portrait.values["height"], frames),
        machine_of(parameters),
    )
    options = options_of(parameters, 1, plan.kv_dtype_of(planned.values))
    rendered = render_pipe.render_live(listener, options, str(model_dir), model_digest, portrait)
    cleaned = render_pipe.write_down(rendered, parameters.whisper)
    driving = features.features(cleaned, str(model_dir))
    judged = quality.judge(rendered, cleaned, portrait)
    stages = (portrait, cleaned, driving, checked, planned, judged)
    published = publish.publish(
        manifest.Results(
            sound=cleaned,
            portrait=portrait,
            cleaned=cleaned,
            features=driving,
            prompt=checked,
            plan=planned,
            rendered=rendered,
            quality=judged,
        ),
        manifest.Publication(
            out=preflight.claim_output(parameters),
            audio=cleaned.path(enhance.CLEANED),
            audio_name="standard input",
            image=Path(parameters.image),
            pose_video=None,
            model_dir=model_dir,
            model_digest=model_digest,
            parameters=asked,
            total_s=time.perf_counter() - started,
            cached_tasks=sum(stage.hit for stage in stages),
        ),
    )
    return tidied(published)
