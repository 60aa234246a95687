"""Feasibility of a job on a machine, its placement and its speed, before anything loads.

A *placement* is `single` (everything on one GPU), `tpp` (denoise steps spread over GPUs, the decoder on the last
one or on its own) or `replicas` (one job per GPU). `liveavatar.planning.memory` computes the load of each GPU; memory
is counted in GB of 2^30 bytes.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from liveavatar.config import LISTED_SIZES, MINI, ModelConfig
from liveavatar.errors import CapacityError, InputError
from liveavatar.files import rounded
from liveavatar.hardware import Machine
from liveavatar.media.sizes import released_size
from liveavatar.planning.memory import GpuLoad, MemoryModel, all_fit, with_kv_dtype
from liveavatar.planning.request import PlanRequest
from liveavatar.planning.speed import Speeds
from liveavatar.timing import BLOCK_FRAMES, FPS

PLACEMENTS = ("auto", "single", "tpp", "replicas")
ALONE = "this version spreads steps over GPUs without offload only; use --placement single to render"
REAL_TIME = 0.95  # share of 25 frames/s from which a plan counts as live


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Feasibility of a job; `nearest` holds options that fit, None when the job fits or nothing near it does."""

    fits: bool
    placement: str
    per_gpu_gb: list[GpuLoad]
    fps: float  # frames per second, decoder included
    ttff_s: float  # from a loaded model and known features to the first frame
    total_s: float
    host_gb: dict[str, float]  # by purpose, with "total"
    disk_gb: dict[str, float]
    reasons: list[str]
    nearest: dict[str, Any] | None
    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, rounded for print."""
        return dict(rounded(asdict(self)))

    def require(self) -> None:
        """Raise unless the job fits.

        Raises:
            CapacityError: with the first reason and the nearest setting that fits.
        """
        if self.fits:
            return
        way_out = "nothing near it fits this machine" if self.nearest is None else f"try {describe(self.nearest)}"
        raise CapacityError(f"the job does not fit: {self.reasons[0]}; {way_out}")


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
    outcome = _plan_as_is(config, request, machine)
    return outcome if outcome.fits else replace(outcome, nearest=_nearest(config, request, machine))


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


def _plan_as_is(config: ModelConfig, original: PlanRequest, machine: Machine) -> Plan:
    request = with_kv_dtype(config, original, machine)
    reasons: list[str] = []
    clip = request.settings.infer_frames
    if clip <= 0 or clip % BLOCK_FRAMES:
        reasons.append(
            f"--infer_frames {clip}: a clip is made of blocks of {BLOCK_FRAMES} frames, so it must be a "
            f"multiple of {BLOCK_FRAMES}"
        )
    model = MemoryModel(config, request, machine)
    placement = model.placement()
    loads = model.loads(placement)
    reasons += [
        f"GPU {load.gpu} ({load.role}) needs {load.total:.2f} GB ({_parts(load.breakdown)}), and {load.usable:.2f} of "
        f"its {machine.gpus[load.gpu].memory_gb:.0f} GB are usable"
        for load in loads
        if load.total > load.usable
    ]
    reasons += model.impossible(placement)
    host, disk = model.host(placement, len(loads)), model.disk()
    if host["total"] > machine.host_gb:
        reasons.append(
            f"the host needs {host['total']:.1f} GB of memory ({_parts(host)}), {machine.host_gb:.1f} are free"
        )
    if disk["total"] - disk["snapshots"] > machine.disk_gb:
        reasons.append(f"the disk needs {disk['total']:.1f} GB ({_parts(disk)}), {machine.disk_gb:.1f} are free")
    elif disk["total"] - disk["snapshots"] > machine.work_gb:
        reasons.append(
            f"the disk of LIVEAVATAR_HOME needs {disk['total']:.1f} GB ({_parts(disk)}), {machine.work_gb:.1f} "
            "are free: set it to a larger one"
        )
    fits = not reasons
    speeds = model.speeds() if machine.gpus or fits else None
    fps, ttff = model.pace(placement, speeds, len(loads)) if speeds else (0.0, 0.0)
    if fits:
        reasons += _remarks(request, loads, fps)
        if request != original:
            why = ", for in bf16 they would not leave enough room" if request.settings.kv_cache_dtype == "fp8" else ""
            reasons.append(f"keys and values of earlier blocks are kept in {request.settings.kv_cache_dtype}{why}")
        reasons += _placement_remarks(model, placement, speeds, fps)
        if disk["total"] > machine.work_gb:
            reasons.append(
                f"{disk['snapshots']:.0f} GB of snapshots are more than the disk of LIVEAVATAR_HOME has "
                f"({machine.work_gb:.0f} GB free): the job could not be resumed"
            )
    return Plan(
        fits=fits,
        placement=placement,
        per_gpu_gb=loads,
        fps=fps,
        ttff_s=ttff,
        total_s=ttff + request.num_frames / fps if fps else 0.0,
        host_gb=host,
        disk_gb=disk,
        reasons=reasons,
        nearest=None,
        settings=_settings(request) | {"model": config.name},
    )


def _remarks(request: PlanRequest, loads: list[GpuLoad], fps: float) -> list[str]:
    remarks = []
    if loads:
        fullest = max(loads, key=lambda load: load.total / load.usable)
        share = fullest.total / fullest.usable
        tight = ", tight" if share > 0.93 else ""
        remarks.append(
            f"the fullest GPU needs {fullest.total:.2f} of {fullest.usable:.2f} usable GB ({share:.0%}{tight}): "
            f"{_parts(fullest.breakdown)}"
        )
        if any(load.total + load.recorded > load.usable for load in loads):
            remarks.append(
                "there may be no room to record the decoder as a CUDA graph; its kernels are then launched one by one, "
                "which is slower"
            )
    if fps < REAL_TIME * FPS:
        remarks.append(f"{fps:.1f} frames/s is below {FPS}: a finished video plays smoothly, a live one would stall")
    if not request.online_decode:
        remarks.append("frames are decoded after the last block; memory does not grow with length either way")
    return remarks


def _placement_remarks(model: MemoryModel, placement: str, speeds: Speeds | None, fps: float) -> list[str]:
    """Explain GPUs that stay idle, and plans that this version cannot render."""
    request, gpus = model.request, model.machine.gpus
    if placement == "tpp" and renders_alone(request):
        return [f"this is what it would need: {ALONE}"]
    spread = model.loads("tpp")
    if placement != "single" or len(gpus) < 2 or not model.config.spreads or request.settings.sample_steps < 2:
        return []
    idle = f"{len(gpus) - 1} of {len(gpus)} GPUs stay idle"
    if renders_alone(request) or not all_fit(spread) or speeds is None:
        return [idle]
    faster = model.pace("tpp", speeds, len(spread))[0]
    return [
        f"{idle}; --placement tpp is reckoned at {faster:.1f} frames/s against {fps:.1f}, --placement replicas "
        "renders a job on each"
    ]


def renders_alone(request: PlanRequest) -> bool:
    """Return whether this version renders the job in one process only."""
    return request.offload


def _parts(parts: dict[str, float]) -> str:
    listed = sorted(((v, k) for k, v in parts.items() if k != "total" and v >= 0.005), reverse=True)
    return ", ".join(f"{k} {v:.2f}" for v, k in listed)


def _settings(request: PlanRequest) -> dict[str, Any]:
    dtype = request.settings.kv_cache_dtype
    return {
        "size": request.size,
        "sample_steps": request.settings.sample_steps,
        "infer_frames": request.settings.infer_frames,
        "fp8": request.settings.fp8,
        **({} if dtype == "auto" else {"kv_cache_dtype": dtype}),
        "offload_model": request.offload,
        "placement": request.placement,
    }


def _nearest(config: ModelConfig, request: PlanRequest, machine: Machine) -> dict[str, Any] | None:
    """Find the options that fit and change least; None when nothing does."""
    for candidate in _neighbours(config, request, machine):
        outcome = _plan_as_is(config, candidate, machine)
        if outcome.fits and not (outcome.placement == "tpp" and renders_alone(candidate)):
            settings = {name: value for name, value in outcome.settings.items() if name != "model"}
            return {**settings, "placement": outcome.placement, "fps": round(outcome.fps, 2)}
    if not machine.gpus and config.needs_gpu:
        width, height = MINI.default_area
        return {"model": MINI.name, "size": f"{width}*{height}", "sample_steps": min(request.settings.sample_steps, 4)}
    return None


@dataclass(frozen=True, slots=True)
class _Alternatives:
    """Values that an option could take instead, best first, as arguments of `PlanRequest.changed`."""

    penalty: float  # of each place after the first
    changes: list[dict[str, Any]]


def _neighbours(config: ModelConfig, request: PlanRequest, machine: Machine) -> Iterator[PlanRequest]:
    """Yield requests like this one, by increasing sum of penalties; equal ones in order of the alternatives."""
    infer_frames = max(BLOCK_FRAMES, request.settings.infer_frames // BLOCK_FRAMES * BLOCK_FRAMES)
    offloads = [request.offload] if request.offload or not machine.gpus else [False, True]
    alternatives = (
        _Alternatives(2, _step_counts(config, request)),
        _Alternatives(1.5, _sizes(config, request)),
        # Offloading costs speed by multiples, so a smaller picture is tried before it.
        _Alternatives(6, [{"offload": offload} for offload in offloads]),
        _Alternatives(1, _precisions(request, machine)),
        _Alternatives(0.5, [{"placement": name} for name in dict.fromkeys((request.placement, "auto"))]),
    )

    def penalty(places: tuple[int, ...]) -> float:
        return sum(a.penalty * place for a, place in zip(alternatives, places, strict=True))

    for places in sorted(product(*(range(len(a.changes)) for a in alternatives)), key=penalty):
        changes: dict[str, Any] = {"infer_frames": infer_frames}
        for a, place in zip(alternatives, places, strict=True):
            changes |= a.changes[place]
        yield request.changed(**changes)


def _step_counts(config: ModelConfig, request: PlanRequest) -> list[dict[str, Any]]:
    """List the model's numbers of steps from the requested one down to 3."""
    most = request.settings.sample_steps
    return [{"sample_steps": n} for n in sorted(config.sigmas, reverse=True) if min(3, most) <= n <= most]


def _sizes(config: ModelConfig, request: PlanRequest) -> list[dict[str, Any]]:
    """List the requested size and the model's smaller ones of the same aspect, the largest first."""
    size = (request.width, request.height)
    listed = sorted({video_size(config, area, size) for area in config.areas}, key=_area)[::-1]
    smaller = [other for other in listed if _area(other) <= _area(size)] or listed[-1:]
    sizes = smaller if size in smaller else [size, *smaller]
    return [{"width": width, "height": height} for width, height in sizes]


def _precisions(request: PlanRequest, machine: Machine) -> list[dict[str, Any]]:
    """List precisions of the linears and of the rings, the requested ones first."""
    if not machine.has_fp8:
        return [{"fp8": False, "kv_cache_dtype": "auto"}]
    settings = request.settings
    linears = [True] if settings.fp8 else [False, True]
    rings = dict.fromkeys((settings.kv_cache_dtype, "auto"))
    return [{"fp8": fp8, "kv_cache_dtype": dtype} for fp8 in linears for dtype in rings]


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]
