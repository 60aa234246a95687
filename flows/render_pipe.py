"""`--audio -`: the stages of a render in the order that sound from a pipe allows: the video first, then the words."""

import time
from dataclasses import replace
from typing import Any

from flows import preflight
from flows.cancelling import unless_cancelled
from flows.parameters import RenderParameters
from flows.serving import environment

environment.import_prefect()

from prefect import Flow, flow  # noqa: E402 (Prefect reads the environment when it is imported)
from prefect.states import State  # noqa: E402

from flows.counters import tallied  # noqa: E402
from flows.render import plan_render, publish_run, tidied  # noqa: E402
from flows.run_name import render_name  # noqa: E402
from flows.run_record import named, run_log, verdict_state  # noqa: E402
from flows.serving.lost_runs import note_run  # noqa: E402
from liveavatar.checkpoints.directory import read_config, resolve_model_dir  # noqa: E402
from liveavatar.media.pcm import PcmPipe  # noqa: E402
from tasks import enhance, features, ingest, manifest, prompt, publish, quality, render_pipe  # noqa: E402
from tasks.inputs import InputFile, JobInputs  # noqa: E402
from tasks.store.model import digest_of  # noqa: E402
from tasks.store.store import Store  # noqa: E402

PLANNED_FRAMES = 15_000  # ten minutes: the length to plan for when no --num_clip gives one


def listen(parameters: RenderParameters, pipe: PcmPipe) -> render_pipe.Listener:
    """Begin to record a pipe."""
    clips = parameters.num_clip
    seconds = None if clips is None else clips * parameters.infer_frames / parameters.fps
    listener = render_pipe.Listener(pipe, seconds)
    listener.start()
    return listener


def pipe_flow(listener: render_pipe.Listener, inputs: JobInputs) -> Flow[[RenderParameters], State[dict[str, Any]]]:
    """Make the flow that renders the sound of a listener.

    Listener and checked inputs come in through a closure, for Prefect records a flow's parameters as JSON.
    """

    @flow(name="render-pipe", flow_run_name=named(render_name), persist_result=False, on_running=[note_run])
    def render_piped(parameters: RenderParameters) -> State[dict[str, Any]]:
        """Make a talking avatar from sound of a pipe, a portrait and a prompt."""
        with run_log():
            return unless_cancelled(lambda: verdict_state(run_piped_job(parameters, listener, inputs)))

    return render_piped


def run_piped_job(parameters: RenderParameters, listener: render_pipe.Listener, inputs: JobInputs) -> dict[str, Any]:
    """Run the stages of a render from a pipe.

    Returns:
        `out` (folder), `status` (passed, warned or failed), `report` (content of report.json).
    """
    with tallied() as tally, Store().using():
        published = _run_stages(parameters, listener, inputs)
        tally.judged(published.report)
    return tidied(published)


def _run_stages(
    parameters: RenderParameters, listener: render_pipe.Listener, inputs: JobInputs
) -> publish.PublishedRun:
    started = time.perf_counter()
    parameters = preflight.for_pipe(parameters)
    model_dir = resolve_model_dir(parameters.model)
    model_digest = digest_of(model_dir)
    config = read_config(model_dir)
    portrait = ingest.portrait(inputs, str(model_dir), parameters.framing_request(config))
    checked = prompt.prompt_check(parameters.prompt, parameters.words_heard(config))
    frames = parameters.num_clip * parameters.infer_frames if parameters.num_clip else PLANNED_FRAMES
    size = (portrait.values["width"], portrait.values["height"])
    planned = plan_render(parameters, config, size, frames, piped=True)
    rendered = render_pipe.render_pipe(
        listener, planned.options, model_dir, model_digest, portrait, planned.options_for_fewer
    )
    cleaned = render_pipe.transcribe(rendered, parameters.whisper)
    driving = features.features(cleaned, str(model_dir))
    judged = quality.judge(rendered, cleaned, portrait, parameters.allow_unjudged, preflight.limits_of(parameters))
    recorded = cleaned.path(enhance.CLEANED)
    return publish_run(
        parameters,
        manifest.Results(
            sound=cleaned,
            portrait=portrait,
            cleaned=cleaned,
            features=driving,
            prompt=checked,
            plan=planned.entry,
            rendered=rendered,
            quality=judged,
        ),
        inputs=replace(inputs, audio=InputFile(path=recorded, sha256=cleaned.files[enhance.CLEANED])),
        audio_name="standard input",
        total_s=time.perf_counter() - started,
        cached_tasks=sum(stage.hit for stage in (portrait, cleaned, driving, checked, planned.entry, judged)),
    )
