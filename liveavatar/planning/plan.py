"""Will this job fit this machine, where does each part go, and how fast will it be: decided before anything loads.

A *placement* is `single` (everything on one GPU), `tpp` (denoise steps spread over GPUs, the decoder on the last
one or on its own) or `replicas` (one job per GPU). What each GPU would hold is
worked out in `liveavatar.planning.memory`; memory is counted in GB of 2^30 bytes.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from liveavatar.config import LISTED_SIZES, MINI, ModelConfig
from liveavatar.errors import CapacityError, InputError
from liveavatar.files import rounded
from liveavatar.hardware import Machine
from liveavatar.media.sizes import released_size
from liveavatar.planning.memory import GpuLoad, MemoryModel, PlanRequest, all_fit, with_kv_dtype
from liveavatar.planning.speed import Speeds
from liveavatar.timing import BLOCK_FRAMES, FPS

__all__ = ["GpuLoad", "Plan", "PlanRequest", "describe", "plan", "video_size"]

DEFAULT_AREA = (688, 368)  # of the released model
PLACEMENTS = ("auto", "single", "tpp", "replicas")
ALONE = "this version spreads steps over GPUs without offload only; use --placement single to render"
REAL_TIME = 0.95  # share of 25 frames/s from which a plan counts as live


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The answer. `nearest` is None when the job fits, or when nothing near it does."""

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
        """Plain values, rounded for print."""
        return dict(rounded(asdict(self)))

    def require(self) -> None:
        """Refuse a job that does not fit.

        Raises:
            CapacityError: with the first reason and the nearest setting that fits.
        """
        if self.fits:
            return
        way_out = "nothing near it fits this machine" if self.nearest is None else f"try {describe(self.nearest)}"
        raise CapacityError(f"the job does not fit: {self.reasons[0]}; {way_out}")


def describe(nearest: dict[str, Any]) -> str:
    """The options of a `nearest` as they are written on the command line."""
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
    """(width, height) of the video for `--size` and a portrait of `picture` (width, height), each optional."""
    if config.size_rule == LISTED_SIZES:
        width, height = area or config.areas[0]
        upright = picture is not None and picture[1] > picture[0]
        return (min(width, height), max(width, height)) if upright else (max(width, height), min(width, height))
    area = area or DEFAULT_AREA
    return released_size(*(picture or area), area[0] * area[1])


def plan(config: ModelConfig, job: PlanRequest, machine: Machine) -> Plan:
    """Decide a job.

    Args:
        config: of the model.
        job: what is wanted.
        machine: what there is; without GPUs the CPU is measured, which takes a few seconds the first time.

    Raises:
        InputError: for settings that mean nothing, whatever the machine.
    """
    _check(config, job)
    decided = _decide(config, job, machine)
    if decided.fits:
        return decided
    return replace(decided, nearest=_nearest(config, job, machine))


def _check(config: ModelConfig, job: PlanRequest) -> None:
    if job.placement not in PLACEMENTS:
        raise InputError(f"--placement {job.placement} is none of {', '.join(PLACEMENTS)}; choose one")
    if job.sample_steps not in config.sigmas:
        known = ", ".join(str(n) for n in sorted(config.sigmas))
        raise InputError(f"--sample_steps {job.sample_steps}: {config.name} samples in {known} steps; choose one")
    if job.num_frames < 1:
        raise InputError(f"a job of {job.num_frames} frames makes no video; give sound or --num_clip")
    multiple = config.size_multiple
    if job.width % multiple or job.height % multiple or min(job.width, job.height) <= 0:
        raise InputError(f"{job.size} is no size of {config.name}: sides are multiples of {multiple}; choose another")


def _decide(config: ModelConfig, job: PlanRequest, machine: Machine) -> Plan:
    asked, job = job, with_kv_dtype(config, job, machine)
    reasons: list[str] = []
    if job.infer_frames <= 0 or job.infer_frames % BLOCK_FRAMES:
        reasons.append(
            f"--infer_frames {job.infer_frames}: a clip is made of blocks of {BLOCK_FRAMES} frames, so it must be a "
            f"multiple of {BLOCK_FRAMES}"
        )
    seating = MemoryModel(config, job, machine)
    placement = seating.placement()
    seats = seating.seats(placement)
    reasons += [
        f"GPU {s.gpu} ({s.role}) needs {s.total:.2f} GB ({_parts(s.breakdown)}), and {s.usable:.2f} of its "
        f"{s.usable + machine.gpus[s.gpu].memory_gb - machine.gpus[s.gpu].usable_gb:.0f} GB are usable"
        for s in seats
        if s.total > s.usable
    ]
    reasons += seating.impossible(placement)
    host, disk = seating.host(placement, len(seats)), seating.disk()
    if host["total"] > machine.host_gb:
        reasons.append(
            f"the host needs {host['total']:.1f} GB of memory ({_parts(host)}), {machine.host_gb:.1f} are free"
        )
    if disk["total"] - disk["snapshots"] > machine.disk_gb:
        reasons.append(f"the disk needs {disk['total']:.1f} GB ({_parts(disk)}), {machine.disk_gb:.1f} are free")
    fits = not reasons
    speeds = seating.speeds() if machine.gpus or fits else None
    fps, ttff = seating.pace(placement, speeds, len(seats)) if speeds else (0.0, 0.0)
    if fits:
        reasons += _remarks(job, seats, fps)
        if asked != job:
            why = ", for in bf16 they would not leave enough room" if job.kv_cache_dtype == "fp8" else ""
            reasons.append(f"keys and values of earlier blocks are kept in {job.kv_cache_dtype}{why}")
        reasons += _about_placement(seating, placement, speeds, fps)
        if disk["total"] > machine.disk_gb:
            reasons.append(
                f"{disk['snapshots']:.0f} GB of snapshots are more than the disk has ({machine.disk_gb:.0f} GB free): "
                "the job could not be resumed"
            )
    return Plan(
        fits=fits,
        placement=placement,
        per_gpu_gb=seats,
        fps=fps,
        ttff_s=ttff,
        total_s=ttff + job.num_frames / fps if fps else 0.0,
        host_gb=host,
        disk_gb=disk,
        reasons=reasons,
        nearest=None,
        settings=_settings(job) | {"model": config.name},
    )


def _remarks(job: PlanRequest, seats: list[GpuLoad], fps: float) -> list[str]:
    remarks = []
    if seats:
        fullest = max(seats, key=lambda s: s.total / s.usable)
        share = fullest.total / fullest.usable
        tight = ", tight" if share > 0.93 else ""
        remarks.append(
            f"the fullest GPU needs {fullest.total:.2f} of {fullest.usable:.2f} usable GB ({share:.0%}{tight}): "
            f"{_parts(fullest.breakdown)}"
        )
        if any(s.total + s.recorded > s.usable for s in seats):
            remarks.append(
                "there may be no room to record the decoder as a CUDA graph; its kernels are then launched one by one, "
                "which is slower"
            )
    if fps < REAL_TIME * FPS:
        remarks.append(f"{fps:.1f} frames/s is below {FPS}: a finished film plays smoothly, a live one would stall")
    if not job.online_decode:
        remarks.append("frames are decoded after the last block; memory does not grow with length either way")
    return remarks


def _about_placement(seating: MemoryModel, placement: str, speeds: Speeds | None, fps: float) -> list[str]:
    """What a user should know before many GPUs are used, or left idle."""
    job, gpus = seating.job, seating.machine.gpus
    if placement == "tpp" and renders_alone(job):
        return [f"this is what it would need: {ALONE}"]
    spread = seating.seats("tpp")
    if placement != "single" or len(gpus) < 2 or not seating.config.spreads or job.sample_steps < 2:
        return []
    idle = f"{len(gpus) - 1} of {len(gpus)} GPUs stay idle"
    if renders_alone(job) or not all_fit(spread) or speeds is None:
        return [idle]
    faster = seating.pace("tpp", speeds, len(spread))[0]
    return [f"{idle}; --placement tpp is reckoned at {faster:.1f} frames/s against {fps:.1f}, --placement replicas "
            "renders a job on each"]  # fmt: skip


def renders_alone(job: PlanRequest) -> bool:
    """Whether this version renders a job in one process only."""
    return job.offload


def _parts(parts: dict[str, float]) -> str:
    listed = sorted(((v, k) for k, v in parts.items() if k != "total" and v >= 0.005), reverse=True)
    return ", ".join(f"{k} {v:.2f}" for v, k in listed)


def _settings(job: PlanRequest) -> dict[str, Any]:
    decided = {} if job.kv_cache_dtype == "auto" else {"kv_cache_dtype": job.kv_cache_dtype}
    return {
        "size": job.size,
        "sample_steps": job.sample_steps,
        "infer_frames": job.infer_frames,
        "fp8": job.fp8,
        **decided,
        "offload_model": job.offload,
        "placement": job.placement,
    }


def _nearest(config: ModelConfig, job: PlanRequest, machine: Machine) -> dict[str, Any] | None:
    """The setting that fits and changes least; None when nothing does."""
    for candidate in _neighbours(config, job, machine):
        decided = _decide(config, candidate, machine)
        if decided.fits and not (decided.placement == "tpp" and renders_alone(candidate)):
            settings = {name: value for name, value in decided.settings.items() if name != "model"}
            return {**settings, "placement": decided.placement, "fps": round(decided.fps, 2)}
    if not machine.gpus and config.name != MINI.name:
        return {"model": MINI.name, "size": "384*256", "sample_steps": min(job.sample_steps, 4)}
    return None


def _neighbours(config: ModelConfig, job: PlanRequest, machine: Machine) -> Iterator[PlanRequest]:
    """Other settings, least painful first: precision, then placement, then offload, then size, then steps."""
    infer_frames = max(BLOCK_FRAMES, job.infer_frames // BLOCK_FRAMES * BLOCK_FRAMES)
    sizes = sorted({video_size(config, area, (job.width, job.height)) for area in config.areas}, key=_area)
    sizes = [s for s in reversed(sizes) if _area(s) <= job.width * job.height] or sizes[:1]
    if (job.width, job.height) not in sizes:
        sizes.insert(0, (job.width, job.height))
    fewer = [n for n in sorted(config.sigmas, reverse=True) if n <= job.sample_steps and n >= min(3, job.sample_steps)]
    placements = [job.placement] if job.placement == "auto" else [job.placement, "auto"]
    caches = list(dict.fromkeys((job.kv_cache_dtype, "auto")))
    has_fp8 = bool(machine.gpus) and all(g.rates.has_fp8 for g in machine.gpus)
    weights = [True] if job.fp8 else [False, True]
    precisions = [(fp8, cache) for fp8 in weights for cache in caches] if has_fp8 else [(False, "auto")]
    offloads = [job.offload] if job.offload or not machine.gpus else [False, True]
    # Offloading costs speed by multiples, so a smaller picture is tried before it.
    ranked = sorted(
        (
            (
                2 * steps_index
                + 1.5 * size_index
                + 6 * (offload != job.offload)
                + precision_index
                + 0.5 * placement_index,
                (steps, size, offload, precision, placement),
            )
            for steps_index, steps in enumerate(fewer)
            for size_index, size in enumerate(sizes)
            for offload in offloads
            for precision_index, precision in enumerate(precisions)
            for placement_index, placement in enumerate(placements)
        ),
        key=lambda entry: entry[0],
    )
    for _, (steps, (width, height), offload, (fp8, cache), placement) in ranked:
        yield replace(
            job,
            sample_steps=steps,
            width=width,
            height=height,
            offload=offload,
            fp8=fp8,
            kv_cache_dtype=cache,
            placement=placement,
            infer_frames=infer_frames,
        )


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]
