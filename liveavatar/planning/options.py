"""Options that contradict each other, the model or the number of GPUs: refusals that need no arithmetic.

`plan` and `render` both ask here, so that they refuse with the same words. Knows no sizes, and loads no torch.
"""

from dataclasses import dataclass

from liveavatar.config import LIVE_AVATAR_14B, ModelConfig
from liveavatar.engine.settings import RenderSettings
from liveavatar.errors import CapacityError, InputError, LiveAvatarError

MAX_RANKS = 8  # GPUs that one job is spread over: those of one machine, and as many as decoding keeps up with


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineUse:
    """Use of a machine that a job asks for."""

    offload: bool = False
    placement: str = "auto"
    num_gpus: int | None = None  # None: as many as are there


def option_errors(
    config: ModelConfig, settings: RenderSettings, use: MachineUse, num_gpus: int
) -> list[LiveAvatarError]:
    """List the errors of a job's options on a machine with `num_gpus` GPUs, the first to be mended first."""
    errors: list[LiveAvatarError] = []
    if not num_gpus and settings.fp8:
        errors.append(InputError("--fp8: 8-bit linear layers need a GPU, and this machine has none; drop it"))
    if not num_gpus and use.offload:
        errors.append(
            InputError(
                "--offload_model True: there is no GPU whose memory could be relieved; use --offload_model False"
            )
        )
    dtype = settings.kv_cache_dtype
    if dtype != "auto" and not (num_gpus and config.has_kv_choice):
        which = f"not {config.name}" if num_gpus else f"and {count(num_gpus)}"
        errors.append(
            InputError(f"--kv_cache_dtype {dtype}: only {LIVE_AVATAR_14B.name} on a GPU has a choice, {which}; drop it")
        )
    errors += _number_errors(config, settings, use, num_gpus)
    return errors


def _number_errors(
    config: ModelConfig, settings: RenderSettings, use: MachineUse, num_gpus: int
) -> list[LiveAvatarError]:
    errors: list[LiveAvatarError] = []
    asked = use.num_gpus or 1
    option = f"--num_gpus {asked}" if use.num_gpus else f"--placement {use.placement}"
    if (use.num_gpus or use.placement in ("tpp", "replicas")) and not num_gpus and config.needs_gpu:
        errors.append(
            CapacityError(f"{option}: {count(num_gpus)}, and {config.name} cannot run without; see `liveavatar plan`")
        )
    if num_gpus and asked > num_gpus:
        errors.append(CapacityError(f"--num_gpus {asked}: {count(num_gpus)}; use --num_gpus {num_gpus}"))
    if use.placement != "tpp":
        return errors
    if use.offload:
        errors.append(
            InputError(
                "--placement tpp with --offload_model True: every GPU of a group keeps its weights; drop "
                "--offload_model, or use --placement single"
            )
        )
    most = most_ranks(config, settings, num_gpus)
    if asked > most and cuts_steps(config, settings, num_gpus):
        errors.append(
            InputError(
                f"--num_gpus {asked}: a job is spread over {most} GPUs at most; use --num_gpus {most}, or "
                "--placement replicas for several jobs of a batch"
            )
        )
    elif asked > most:
        errors.append(
            InputError(
                f"--num_gpus {asked}: {settings.sample_steps} steps and a decoder keep no more than {most} busy; "
                f"use --num_gpus {most}, or more --sample_steps"
            )
        )
    return errors


def cuts_steps(config: ModelConfig, settings: RenderSettings, num_gpus: int) -> bool:
    """Tell if a group of GPUs may cut a denoise step between two layers, which only the fast path can."""
    return bool(num_gpus) and config.runs_fast(fp8=settings.fp8, offload=False)


def most_ranks(config: ModelConfig, settings: RenderSettings, num_gpus: int) -> int:
    """Count the processes that a group keeps busy: one a denoise step, and one that decodes; more where steps are cut.

    Args:
        config: of the model.
        settings: of the job.
        num_gpus: of the machine.
    """
    return MAX_RANKS if cuts_steps(config, settings, num_gpus) else settings.sample_steps + 1


def count(gpus: int) -> str:
    """Say how many GPUs a machine has."""
    return f"this machine has {gpus} GPU{'s' * (gpus != 1)}"
