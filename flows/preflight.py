"""Checks before anything starts: contradictory options, the model, the files, the machine.

Loads neither torch nor Prefect and takes about a second.
"""

import contextlib
import itertools
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flows.parameters import RenderParameters
from liveavatar import config, hardware, paths
from liveavatar.checkpoints.directory import read_config
from liveavatar.checkpoints.headers import complete_model_dir, readable_model_dir
from liveavatar.errors import CapacityError, InputError
from liveavatar.files import disk_errors, read_json
from liveavatar.media import framing
from liveavatar.media.ffmpeg import ffmpeg_binary
from liveavatar.planning.options import MachineUse, option_errors
from tasks.inputs import JobInputs, check_inputs, decode_portrait
from tasks.run_folder import MANIFEST
from tasks.store import machine
from tasks.store.remote import check_store_url

if TYPE_CHECKING:
    from liveavatar.quality.limit import Limit

PUBLISHED = ("video.mp4", "latents.bin", "frames.parquet", "blocks.parquet", "report.json")  # beside it, by every run
NAME_BYTES = 255  # of a file or folder, at most
MODEL_LIMITS = "limits.json"  # of a model, in its directory
PIPE = "-"  # as --audio: sound from standard input


def check(parameters: RenderParameters) -> JobInputs:
    """Refuse a render that cannot work; return its inputs, opened and checked.

    Raises:
        InputError: an option or a file cannot be used.
        CapacityError: this machine cannot do it.
    """
    check_options(parameters)
    ffmpeg_binary()  # there is one
    model = read_config(complete_model_dir(parameters.model))
    pose = None if parameters.pose_video is None else Path(parameters.pose_video)
    audio = None if parameters.audio == PIPE else Path(parameters.audio)
    inputs = check_inputs(Path(parameters.image), audio, pose, skeleton=model.pose_input == config.SKELETON_VIDEO)
    if parameters.strict_portrait:
        refuse_portrait(parameters, inputs)
    return inputs


def refuse_size(parameters: RenderParameters, model: config.ModelConfig) -> tuple[int, int]:
    """Refuse a size that the video cannot have; return (width, height) whose area the model renders.

    Raises:
        InputError: with the sizes there are.
    """
    area = parameters.area() or model.default_area
    if framing.keeps_picture(parameters.framing, model):
        framing.refuse_video_size(area)
        return model.default_area
    config.refuse_size(model, area)
    return area


def refuse_portrait(parameters: RenderParameters, inputs: JobInputs) -> None:
    """Refuse a portrait that may not speak.

    Raises:
        InputError: with the reason.
    """
    from liveavatar.media.portrait_check import judge_portrait

    model = read_config(readable_model_dir(parameters.model))
    pixels = decode_portrait(inputs.image.path) if inputs.pixels is None else inputs.pixels
    check = judge_portrait(pixels, parameters.framing_request(model), model).check
    if check is not None:
        check.require()


def check_options(parameters: RenderParameters) -> None:
    """Refuse options that contradict each other, the model or this machine; opens no input.

    Raises:
        InputError: an option cannot be used.
        CapacityError: this machine cannot do it.
    """
    check_settings(parameters)
    check_texts(parameters)


def check_texts(parameters: RenderParameters) -> None:
    """Refuse the output folder and the prompt, which differ from job to job of a table."""
    check_out(output_folder(parameters))
    if parameters.strict_prompt:
        from liveavatar.prompt.check import require_dense

        require_dense(parameters.prompt)


def check_settings(parameters: RenderParameters) -> None:
    """Do what `check_options` says for all options but the output folder and the prompt."""
    paths.store_bytes()
    check_store_url()
    model = read_config(readable_model_dir(parameters.model))
    refuse_size(parameters, model)
    refuse_job(parameters, model, len(machine.accelerators()), piped=parameters.audio == PIPE)
    limits_of(parameters)


def limits_of(parameters: RenderParameters) -> "tuple[Limit, ...] | None":
    """Read the limits of the verdict: those of `--limits`, or of the model; None for the product's own.

    Raises:
        InputError: the file cannot be used.
    """
    own = readable_model_dir(parameters.model) / MODEL_LIMITS
    if parameters.limits is None and not own.is_file():
        return None
    from liveavatar.quality.limits import read_limits

    return read_limits(own if parameters.limits is None else Path(parameters.limits))


def moved_size(parameters: RenderParameters, model: config.ModelConfig, size: tuple[int, int]) -> str | None:
    """Say that a video has another size than `--size` asks for; None when it has that size.

    Args:
        parameters: of the render.
        model: its config.
        size: (width, height) of the model's video, pixels.
    """
    area = parameters.area()
    if model.size_rule != config.ANY_SIZE or area is None or sorted(area) == sorted(size):
        return None
    return (
        f"--size {area[0]}*{area[1]} becomes {size[0]}*{size[1]}: sides are multiples of {model.size_multiple}, in the "
        "portrait's aspect, with no more pixels than asked"
    )


def output_folder(parameters: RenderParameters) -> Path:
    """Return the folder to publish in: `--out`, else one below `paths.outputs`, named by the time and the sound."""
    if parameters.out:
        return Path(parameters.out)
    stem = re.sub(r"[^\w.-]+", "-", Path(parameters.audio).stem)[:40].strip("-") or "run"
    return paths.outputs() / f"{time.strftime('%Y%m%d-%H%M%S')}-{stem}"


def claim_output(parameters: RenderParameters) -> Path:
    """Make the folder to publish in, unless `--out` names it.

    A name made of the time gets a number where a command of the same second has that name already.

    Raises:
        CapacityError: it cannot be made.
    """
    out = named = output_folder(parameters)
    if parameters.out:
        return out
    with disk_errors(named):
        named.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(2):
            with contextlib.suppress(FileExistsError):
                out.mkdir()
                break
            out = named.with_name(f"{named.name}-{number}")
    return out


def check_out(out: Path) -> None:
    """Refuse an output folder that is a file, cannot be made, or holds other files than ours.

    Raises:
        InputError: for these reasons.
        CapacityError: the folder may not be written.
    """
    if "\0" in str(out) or max(len(os.fsencode(part)) for part in (*out.parts, "")) > NAME_BYTES:
        raise InputError(f"--out {out}: no folder can have this name; give a shorter one of plain letters")
    if any("\udc80" <= letter <= "\udcff" for letter in str(out.resolve())):
        place = out if out.is_absolute() else Path(os.path.abspath(out))
        raise InputError(
            f"--out {place}: its name is not UTF-8 and cannot be written into reports; give another folder"
        )
    for parent in (out, *out.parents):
        if parent.exists() or parent.is_symlink():
            if not parent.is_dir():
                raise InputError(f"--out {out}: {parent} is a file, not a folder; give another folder")
            if not os.access(parent, os.W_OK):
                raise CapacityError(f"--out {out}: {parent} may not be written; give another folder")
            break
    if out.is_dir() and any(out.iterdir()) and not is_run(out):
        raise InputError(f"--out {out} holds other files, which a render would replace; give a new or empty folder")


def is_run(folder: Path) -> bool:
    """Tell if a folder was published by us: by its manifest, or when that is damaged by the files beside it."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        if "latents_sha256" in read_json(folder / MANIFEST):
            return True
    return all((folder / name).is_file() for name in PUBLISHED)


def _check_pipe(parameters: RenderParameters) -> None:
    """Refuse options that sound from a pipe cannot have."""
    if parameters.denoise not in ("auto", "off"):
        raise InputError(
            f"--audio - with --denoise {parameters.denoise}: noise removal hears a recording as a whole; "
            "use --denoise off, or give a file"
        )
    if parameters.resume:
        raise InputError("--audio - with --resume: what a pipe said is gone; render the file that was named instead")
    if parameters.pose_video is not None:
        raise InputError("--audio - with --pose_video: the sound has no length to fit it to; give a file")
    if parameters.placement == "replicas":
        raise InputError(
            "--audio - with --placement replicas: one sound makes one video; use --placement tpp to spread it over "
            "several GPUs"
        )


def for_pipe(parameters: RenderParameters) -> RenderParameters:
    """Set what sound from a pipe decides: frames are made while it arrives."""
    return parameters.model_copy(update={"enable_online_decode": True})


def refuse_pipe(parameters: RenderParameters) -> None:
    """Refuse standard input where a sound is needed more than once.

    Raises:
        InputError: it is asked for.
    """
    if parameters.audio == PIPE:
        raise InputError("--audio -: standard input can be heard only once; give a file")


def refuse_job(parameters: RenderParameters, model: config.ModelConfig, gpus: int, *, piped: bool) -> None:
    """Refuse options that contradict each other, the model or the number of GPUs; `plan` and `render` both ask here.

    Args:
        parameters: of the job.
        model: its config.
        gpus: of the machine.
        piped: whether the sound comes from standard input.

    Raises:
        InputError, CapacityError: the first of `liveavatar.planning.options.option_errors`, or what a pipe or the
            model's pose does not allow.
    """
    use = MachineUse(
        offload=bool(parameters.offload_model), placement=parameters.placement, num_gpus=parameters.num_gpus
    )
    for error in option_errors(model, parameters.settings(), use, gpus):
        raise error
    if piped:
        _check_pipe(parameters)
    if parameters.pose_video is not None:
        config.refuse_pose(model)


def machine_of(parameters: RenderParameters, gpus: tuple[hardware.Gpu, ...] | None = None) -> hardware.Machine:
    """Describe the machine that a job may use: as many of its GPUs, and as much memory, as its options leave to it.

    Args:
        parameters: of the job.
        gpus: of another machine; None: those that are here.
    """
    here = hardware.detect_machine(output_folder(parameters), gpus)
    return replace(here, gpus=here.gpus[: parameters.num_gpus]).leaving(parameters.leave_memory or 0.0)
