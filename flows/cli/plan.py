"""`liveavatar plan`: the planner's answer for a job, on this machine or another; weights need not be here."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows import preflight
from flows.parameters import RenderParameters, read_parameters
from flows.terminal import say
from liveavatar import config
from liveavatar.checkpoints.directory import read_config
from liveavatar.checkpoints.headers import readable_model_dir
from liveavatar.config import ModelConfig
from liveavatar.errors import CapacityError, InputError
from liveavatar.hardware import Machine, detect_gpus, parse_gpus
from liveavatar.isolation.caller import isolated
from liveavatar.media.portrait_check import JudgedPortrait, judge_portrait
from liveavatar.planning.plan import Plan, describe, plan, video_size
from liveavatar.planning.request import PlanRequest
from liveavatar.planning.table import TableRow, as_data, plan_table
from liveavatar.timing import FPS
from tasks.inputs import decode_portrait
from tasks.plan import request_of

DEFAULT_SECONDS = 10.0
ANY = {"audio": "-", "image": "-", "prompt": "-"}  # a plan needs none of the three


def plan_command(options: dict[str, Any]) -> int:
    """Print a plan; 3 when the job does not fit."""
    as_json, gpus, seconds = options.pop("json"), options.pop("gpus"), options.pop("seconds")
    as_table = options.pop("table")
    if seconds is not None and not 0 < seconds < 1e6:
        raise InputError(f"--seconds {seconds:g}: give the length of the sound in seconds, such as 10")
    default = {"model": config.LIVE_AVATAR_14B.name} if as_table else {}
    parameters = read_parameters({**ANY, **default, **options})
    piped = options.get("audio") == preflight.PIPE
    if piped:
        parameters = preflight.for_pipe(parameters)
    model = _model(parameters.model)
    area = preflight.refuse_size(parameters, model)
    portrait = _portrait(parameters, model)
    width, height = portrait.picture.shape[1::-1] if portrait is not None else video_size(model, area, None)
    frames = _frames(parameters.audio, seconds, parameters.num_clip, parameters.infer_frames)
    named = None if gpus is None else parse_gpus(gpus)
    preflight.refuse_job(parameters, model, len(detect_gpus() if named is None else named), piped=piped)
    machine = preflight.machine_of(parameters, named)
    request = request_of(parameters.settings(), parameters.model_dump(), width, height, frames, piped=piped)
    if as_table:
        return print_table(model, request, machine, as_json)
    outcome = plan(model, request, machine)
    notes = _notes(parameters, model, (width, height))
    heard = _heard(parameters, model)
    if as_json:
        judged: dict[str, Any] = {} if portrait is None else {"portrait": _facts(portrait)}
        judged |= {"notes": notes} if notes else {}
        judged |= {} if heard is None else {"prompt": heard}
        say(json.dumps({**outcome.to_dict(), **judged}, indent=2, ensure_ascii=False))
    else:
        _print(outcome, frames)
        for note in notes:
            say(f"  - {note}")
        if portrait is not None and portrait.check is not None:
            say(f"  portrait     {portrait.check.line.removeprefix('the portrait ')}")
        if heard is not None:
            say(f"  prompt       {heard['line'] or 'heard as it is written'}")
    return 0 if outcome.fits else CapacityError.exit_code


def _notes(parameters: RenderParameters, model: ModelConfig, size: tuple[int, int]) -> list[str]:
    """Say what the preset filled in, and that the video has another size than asked."""
    filled = parameters.filled()
    notes = [] if parameters.preset is None else [f"--preset {parameters.preset} is {describe(filled) or 'all given'}"]
    moved = preflight.moved_size(parameters, model, size)
    return notes if moved is None else [*notes, moved]


def print_table(model: ModelConfig, request: PlanRequest, machine: Machine, as_json: bool) -> int:
    """Print sizes by denoise steps, and which steps to take; 3 when nothing fits."""
    rows, advice = plan_table(model, request, machine)
    if as_json:
        say(json.dumps(as_data(rows, advice), indent=2, ensure_ascii=False))
    else:
        gpus = ", ".join(gpu.name for gpu in machine.gpus) or "CPU"
        say(f"{model.name} on {gpus}")
        say("  size       video      steps  fits                     GiB     frames/s  placement")
        for row in rows:
            say(
                f"  {row.asked:<10} {row.size:<10} {row.steps:>5}  {_fits(row, request):<19}  {row.gib:>7.2f}  "
                f"{row.fps if row.fits else 0:>11.1f}  {row.placement if row.fits else '-'}"
            )
        say("recommended:")
        for one in advice:
            say(f"  {one.asked:<10} {'-' if one.steps is None else f'{one.steps} steps'}: {one.why}")
    return 0 if any(row.fits for row in rows) else CapacityError.exit_code


def _fits(row: TableRow, request: PlanRequest) -> str:
    """Say whether a cell fits, and with which options that were not asked for."""
    if not row.fits:
        return "no"
    added = ["--fp8"] if row.in_8_bits and not request.settings.fp8 else []
    added += ["offload"] if row.offload and not request.offload else []
    return f"with {', '.join(added)}" if added else "yes"


def _model(name: str) -> ModelConfig:
    return config.PRESETS.get(name) or read_config(readable_model_dir(name))


def _portrait(parameters: RenderParameters, model: ModelConfig) -> JudgedPortrait | None:
    if parameters.image == ANY["image"]:
        return None
    return judge_portrait(decode_portrait(Path(parameters.image)), parameters.framing_request(model), model)


def _heard(parameters: RenderParameters, model: ModelConfig) -> dict[str, Any] | None:
    """Tell what the model hears of a prompt; None when none is given or the model reads it as it is."""
    words = parameters.words_heard(model)
    if parameters.prompt == ANY["prompt"] or words is None:
        return None
    from liveavatar.prompt.heard import hear

    return asdict(hear(parameters.prompt, words))


def _facts(portrait: JudgedPortrait) -> dict[str, Any]:
    """Return what is known of a portrait, as JSON holds it."""
    height, width = (portrait.picture if portrait.framed is None else portrait.framed.canvas).shape[:2]
    return {"canvas": f"{width}*{height}", **({} if portrait.check is None else portrait.check.to_dict())}


def _frames(audio: str, seconds: float | None, num_clip: int | None, infer_frames: int) -> int:
    """Count the frames of the job: those of `--num_clip`, at most the length of the sound when there is one."""
    limit = num_clip * infer_frames if num_clip else None
    if audio != ANY["audio"]:
        from liveavatar.audio.ingest import sound_seconds

        seconds = isolated(sound_seconds, audio)
    if seconds is None:
        return limit or round(DEFAULT_SECONDS * FPS)
    frames = max(1, round(seconds * FPS))
    return min(frames, limit) if limit else frames


def _print(outcome: Plan, frames: int) -> None:
    verdict = "fits" if outcome.fits else "does not fit"
    say(f"{verdict}: {outcome.settings['model']} {outcome.settings['size']}, {outcome.settings['sample_steps']} steps")
    say(f"  placement    {outcome.placement}")
    if outcome.fps:
        say(f"  speed        {outcome.fps:.1f} frames/s, first frame after {outcome.ttff_s:.2f} s")
        if outcome.fps_bound:
            say(f"  upper bound  {outcome.fps_bound:.1f} frames/s, if no GPU ever waited for another")
        say(f"  time         {outcome.total_s:.0f} s for {frames} frames ({frames / FPS:.1f} s of video)")
    for load in outcome.per_gpu_gb:
        say(f"  GPU {load.gpu} {load.role:<6} {load.total:.2f} of {load.usable:.2f} GB")
    say(f"  host         {outcome.host_gb['total']:.2f} GB")
    for reason in outcome.reasons:
        say(f"  - {reason}")
    if outcome.nearest:
        say(f"  nearest      {describe(outcome.nearest)}")
