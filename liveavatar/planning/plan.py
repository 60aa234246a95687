"""Feasibility of a job on a machine, its placement and its speed, before anything loads.

A *placement* is `single` (everything on one GPU), `tpp` (denoise steps spread over GPUs, the decoder on the last
one or on its own) or `replicas` (one job per GPU). `liveavatar.planning.choice` settles what a job leaves open, and
`render` carries out what it says; memory is counted in GB of 2^30 bytes.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from liveavatar.config import LISTED_SIZES, ModelConfig
from liveavatar.errors import CapacityError, InputError
from liveavatar.files import rounded
from liveavatar.hardware import Machine
from liveavatar.media.sizes import released_size
from liveavatar.planning.choice import Choice, choose, disk_refusals, parts, settled
from liveavatar.planning.memory import GpuLoad
from liveavatar.planning.nearest import nearest
from liveavatar.planning.options import MAX_RANKS
from liveavatar.planning.request import PlanRequest
from liveavatar.timing import FPS

PLACEMENTS = ("auto", "single", "tpp", "replicas")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Feasibility of a job; `nearest` holds options that fit, None when the job fits or nothing near it does."""

    fits: bool
    placement: str
    own_decoder: bool  # the last process of a spread job decodes and does nothing else
    layers: tuple[int, ...]  # that each GPU keeps, where blocks go round; none: each keeps all
    rings_on_host: bool  # keys and values of earlier blocks wait in host memory
    per_gpu_gb: list[GpuLoad]
    fps: float  # frames per second, decoder included
    fps_bound: float | None  # no division of a spread job over these GPUs is faster; None: it is not spread
    ttff_s: float  # from a loaded model and known features to the first frame
    total_s: float
    host_gb: dict[str, float]  # by purpose, with "total"
    disk_gb: dict[str, float]
    reasons: list[str]
    nearest: dict[str, Any] | None
    settings: dict[str, Any]
    refusal: str | None = None  # the words that `render` refuses with; None when the job fits

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, rounded for print."""
        return dict(rounded(asdict(self)))

    def require(self) -> None:
        """Raise unless the job fits.

        Raises:
            CapacityError: with the first reason and the nearest setting that fits.
        """
        if self.refusal is not None:
            raise CapacityError(self.refusal)


def describe(nearest: dict[str, Any]) -> str:
    """Write the options of a `nearest` as on the command line."""
    options = []
    for name, value in nearest.items():
        if name == "fps":
            continue
        if isinstance(value, bool) and name != "offload_model":
            options += [f"--{name}"] if value else []
        else:
            options.append(f'--{name} "{value}"' if name == "size" else f"--{name} {value}")
    return " ".join(options)


def video_size(config: ModelConfig, area: tuple[int, int] | None, picture: tuple[int, int] | None) -> tuple[int, int]:
    """Return (width, height) of the video for `--size` and a portrait of `picture` (width, height), each optional."""
    area = area or config.default_area
    if config.size_rule == LISTED_SIZES:
        width, height = area
        upright = picture is not None and picture[1] > picture[0]
        return (min(width, height), max(width, height)) if upright else (max(width, height), min(width, height))
    return released_size(*(picture or area), area[0] * area[1])


def plan(config: ModelConfig, request: PlanRequest, machine: Machine) -> Plan:
    """Plan a job: placement, memory, speed, and the nearest options that fit if it does not.

    Args:
        config: of the model.
        request: the job.
        machine: to run it on; without GPUs the CPU is measured, which takes a few seconds the first time.

    Raises:
        InputError: settings that are invalid on any machine.
    """
    _check(config, request)
    choice = choose(config, request, machine)
    outcome = _plan_of(choice, config, request, machine)
    if choice.fits:
        return outcome
    if choice.refusals == disk_refusals(choice.model):  # no other setting is the way out of that
        return replace(outcome, refusal=f"the job does not fit: {choice.refusals[0]}")
    near = nearest(config, request, machine)
    way_out = "nothing near it fits this machine" if near is None else f"try {describe(near)}"
    refusal = f"the job does not fit: {outcome.reasons[0]}; {way_out}"
    other = _gpu_that_holds(config, request, machine)
    if other is None:
        return replace(outcome, nearest=near, refusal=refusal)
    alone = f"GPU {other} ({machine.gpus[other].name}) alone holds it: set CUDA_VISIBLE_DEVICES={other}"
    return replace(outcome, nearest=near, reasons=[*outcome.reasons, alone], refusal=f"{refusal}; {alone}")


def _gpu_that_holds(config: ModelConfig, request: PlanRequest, machine: Machine) -> int | None:
    """Find a GPU other than the first one, and unlike it, that holds a job alone; None when there is none."""
    if request.placement not in ("auto", "single"):
        return None
    single = request.changed(placement="single")
    tried = [machine.gpus[0]] if machine.gpus else []
    for index, gpu in enumerate(machine.gpus):
        if gpu in tried:
            continue
        tried.append(gpu)
        if settled(config, single, replace(machine, gpus=(gpu,))).fits:
            return index
    return None


def _check(config: ModelConfig, request: PlanRequest) -> None:
    if request.placement not in PLACEMENTS:
        raise InputError(f"--placement {request.placement} is none of {', '.join(PLACEMENTS)}; choose one")
    if request.settings.sample_steps not in config.sigmas:
        counts = ", ".join(str(n) for n in sorted(config.sigmas))
        raise InputError(
            f"--sample_steps {request.settings.sample_steps}: {config.name} samples in {counts} steps; choose one"
        )
    if request.num_frames < 1:
        raise InputError(f"a job of {request.num_frames} frames makes no video; give sound or --num_clip")
    multiple = config.size_multiple
    if request.width % multiple or request.height % multiple or min(request.width, request.height) <= 0:
        raise InputError(
            f"{request.size} is no size of {config.name}: sides are multiples of {multiple}; choose another"
        )


def _plan_of(choice: Choice, config: ModelConfig, original: PlanRequest, machine: Machine) -> Plan:
    model, request, fps = choice.model, choice.model.request, choice.fps
    host, disk = model.host(choice.placement, len(choice.loads)), model.disk()
    reasons = list(choice.refusals)
    if choice.fits:
        reasons += _remarks(choice) + _assumptions(choice, machine)
        dtype = request.settings.kv_cache_dtype
        if dtype != original.settings.kv_cache_dtype:
            why = ", for in bf16 they would not leave enough room" if dtype == "fp8" else ""
            reasons.append(f"keys and values of earlier blocks are kept in {dtype}{why}")
        reasons += _offload_remarks(choice, config, original, machine)
        reasons += _idle_remarks(choice, config, original, machine)
        if disk["total"] > machine.work_gb:
            reasons.append(
                f"{disk['snapshots']:.0f} GB of snapshots are more than the disk of LIVEAVATAR_HOME has "
                f"({machine.work_gb:.0f} GB free): the job could not be resumed"
            )
    return Plan(
        fits=choice.fits,
        placement=choice.placement,
        own_decoder=model.own_decoder(choice.placement),
        layers=model.layers(choice.placement),
        rings_on_host=model.rings_on_host(choice.placement),
        per_gpu_gb=choice.loads,
        fps=fps,
        fps_bound=model.bound(choice.placement),
        ttff_s=choice.ttff_s,
        total_s=choice.ttff_s + request.num_frames / fps if fps else 0.0,
        host_gb=host,
        disk_gb=disk,
        reasons=reasons,
        nearest=None,
        settings=request.options() | {"placement": original.placement, "model": config.name},
    )


def _remarks(choice: Choice) -> list[str]:
    remarks = []
    if choice.loads:
        fullest = max(choice.loads, key=lambda load: load.share)
        tight = ", tight" if fullest.share > 0.93 else ""
        remarks.append(
            f"the fullest GPU needs {fullest.total:.2f} of {fullest.usable:.2f} usable GB "
            f"({fullest.share:.0%}{tight}): {parts(fullest.breakdown)}"
        )
        if any(load.total + load.recorded > load.usable for load in choice.loads):
            remarks.append(
                "there may be no room to record the decoder as a CUDA graph; its kernels are then launched one by one, "
                "which is slower"
            )
    model = choice.model
    if model.rings_on_host(choice.placement):
        roomy, _ = model.pace(choice.placement, rings_on_host=False)
        remarks.append(
            f"keys and values of earlier blocks ({model.all_rings_gb:.1f} GB) wait in host memory, for the GPU has no "
            f"room for them: {choice.fps:.2f} frames/s, with room for them it would be {roomy:.2f}"
        )
    if not choice.live:
        remarks.append(
            f"{choice.fps:.1f} frames/s is below {FPS}: a finished video plays smoothly, a live one would stall"
        )
    if not choice.model.request.online_decode:
        remarks.append("frames are decoded after the last block; memory does not grow with length either way")
    return remarks


def _assumptions(choice: Choice, machine: Machine) -> list[str]:
    """Name the GPUs whose kind, and with it speed and 8-bit unit, is only assumed."""
    used = [machine.gpus[load.gpu] for load in choice.loads]
    assumed = dict.fromkeys((gpu.name, gpu.assumed) for gpu in used if gpu.assumed)
    return [
        f"{name} is no kind of GPU known here: speed and 8-bit unit are reckoned as a {kind}'s"
        for name, kind in assumed
    ]


def _offload_remarks(choice: Choice, config: ModelConfig, original: PlanRequest, machine: Machine) -> list[str]:
    """Say that weights need not wait in host memory, when they need not: on one GPU, or spread over several."""
    if not original.offload:
        return []
    resident = choose(config, original.changed(offload=False), machine)
    if not resident.fits:
        return []
    fullest = max(resident.loads, key=lambda load: load.share)
    busy = len(resident.loads)
    where = "a GPU holds" if resident.placement != "tpp" else f"the job is spread over {busy} GPUs, the fullest with"
    return [
        f"--offload_model True is not needed: without it {where} {fullest.total:.2f} of {fullest.usable:.2f} GB, "
        f"at {resident.fps:.1f} frames/s against {choice.fps:.1f}"
    ]


def _idle_remarks(choice: Choice, config: ModelConfig, original: PlanRequest, machine: Machine) -> list[str]:
    """Name the GPUs that stay idle, with the reason, and those that a job is spread over without being asked to."""
    num_gpus, busy = len(machine.gpus), len(choice.loads)
    request = choice.model.request
    remarks = []
    if choice.placement == "tpp" and original.placement == "auto":
        remarks.append(f"one GPU is not fast or large enough, so the job is spread over {busy}")
    layers = choice.model.layers(choice.placement)
    if layers:
        kept = f"{min(layers)}" if len(set(layers)) == 1 else f"{min(layers)} to {max(layers)}"
        remarks.append(
            f"each GPU keeps {kept} of {sum(layers)} layers, and a block goes round all of them once a denoise step"
        )
    if busy == num_gpus:
        return remarks
    first = f"{busy} of {num_gpus} GPUs work, " + (
        f"GPU {busy}" if num_gpus - busy == 1 else f"GPUs {busy}-{num_gpus - 1}"
    )
    first += " stays idle" if num_gpus - busy == 1 else " stay idle"
    if choice.placement == "tpp":
        reason = f"{request.settings.sample_steps} denoise steps and a decoder keep no more than {busy} busy"
        if busy == MAX_RANKS:
            reason = f"a job is spread over {busy} at most"
        elif busy < choice.model.most_ranks():
            reason = f"with GPU {busy} ({machine.gpus[busy].name}) as well the job would be slower, or not fit"
        elif choice.model.fast:
            reason = f"with more than {busy} all would wait for the one that decodes"
        return [*remarks, f"{first}: {reason}; --placement replicas renders other jobs of a batch on them"]
    if not config.spreads:
        return [
            f"{first}: {config.name} is not spread over GPUs; --placement replicas renders a job of a batch on each"
        ]
    if request.offload:
        return [f"{first}: with --offload_model True a job runs on one GPU"]
    spread = settled(config, request.changed(placement="tpp", kv_cache_dtype=original.settings.kv_cache_dtype), machine)
    if not spread.fits:
        return [f"{first}: spread over {len(spread.loads)} the job does not fit ({spread.refusals[0]})"]
    enough = "one is as fast as the video plays; " if choice.live else ""
    return [
        f"{first}: {enough}--placement tpp is reckoned at {spread.fps:.1f} frames/s against {choice.fps:.1f}, "
        "--placement replicas renders a job on each"
    ]
