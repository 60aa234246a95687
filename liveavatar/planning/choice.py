"""Choice of what a job leaves open: placement, and the dtype of keys and values; and whether it then fits.

`plan` explains the choice, `render` carries it out. Memory is counted in GB of 2^30 bytes.
"""

from dataclasses import dataclass

from liveavatar.config import ModelConfig
from liveavatar.hardware import Machine
from liveavatar.planning.memory import GpuLoad, MemoryModel
from liveavatar.planning.request import PlanRequest
from liveavatar.timing import BLOCK_FRAMES, FPS

SPARE_GB = 3.0  # left free before "auto" takes bf16 rings: allocators keep pieces that are of no use
REAL_TIME = 0.95  # share of 25 frames/s from which a plan counts as live


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A job with nothing left open, what it needs, and its speed."""

    model: MemoryModel  # its request names placement and dtype
    loads: list[GpuLoad]
    refusals: list[str]  # reasons that it does not fit; none when it does
    fps: float  # frames per second; 0 on a CPU that does not hold the job
    ttff_s: float

    @property
    def placement(self) -> str:
        """The placement, never "auto"."""
        return self.model.request.placement

    @property
    def fits(self) -> bool:
        """True when the machine holds the job."""
        return not self.refusals

    @property
    def live(self) -> bool:
        """True when the job fits and is as fast as it plays."""
        return self.fits and self.fps >= REAL_TIME * FPS


def choose(config: ModelConfig, request: PlanRequest, machine: Machine) -> Choice:
    """Settle placement and dtype of a job.

    "auto" is one GPU when that is as fast as the video plays. Otherwise the job is spread over the others, where that
    is faster, and without `--fp8` one GPU may have been too slow: so the option never makes a job slower.
    """
    if request.placement != "auto":
        return settled(config, request, machine)
    alone = settled(config, request.changed(placement="single"), machine)
    if not can_spread(config, request, machine):
        return alone
    spread = settled(config, request.changed(placement="tpp"), machine)
    if not spread.fits:
        return alone if alone.fits else spread
    if not alone.fits or (spread.fps > alone.fps and not (alone.live and _as_fast_as_bf16(config, alone, machine))):
        return spread
    return alone


def can_spread(config: ModelConfig, request: PlanRequest, machine: Machine) -> bool:
    """Return whether a job may be spread over several GPUs of a machine without being asked to."""
    return len(machine.gpus) > 1 and config.spreads and not request.offload


def settled(config: ModelConfig, request: PlanRequest, machine: Machine) -> Choice:
    """Judge a job whose placement is named; its dtype of keys and values may be left open."""
    model = MemoryModel(config, with_kv_dtype(config, request, machine), machine)
    placement = request.placement
    loads = model.loads(placement)
    refusals = _refusals(model, loads)
    fps, ttff_s = model.pace(placement) if machine.gpus or not refusals else (0.0, 0.0)
    return Choice(model=model, loads=loads, refusals=refusals, fps=fps, ttff_s=ttff_s)


def with_kv_dtype(config: ModelConfig, request: PlanRequest, machine: Machine) -> PlanRequest:
    """Replace `kv_cache_dtype` "auto" by a dtype, where the model and the machine have a choice.

    That is bf16 where rings and recorded kernels fit with room to spare, else fp8 where the GPUs have it. Attention in
    8 bits ("int8", "e4m3") is only taken on request.
    """
    if request.settings.kv_cache_dtype != "auto" or not config.has_kv_choice or not machine.gpus:
        return request
    wide = request.changed(kv_cache_dtype="bf16")
    model = MemoryModel(config, wide, machine)
    roomy = not model.rings_on_host(request.placement) and all(
        load.total + load.recorded + SPARE_GB <= load.usable for load in model.loads(request.placement)
    )
    has_fp8 = all(gpu.rates.has_fp8 for gpu in model.used(request.placement))
    return request.changed(kv_cache_dtype="fp8") if has_fp8 and not roomy else wide


def _as_fast_as_bf16(config: ModelConfig, alone: Choice, machine: Machine) -> bool:
    """Return whether a job on one GPU is no slower than it would be with weights in bf16, wherever that ran."""
    request = alone.model.request
    if not request.settings.fp8:
        return True
    wide = choose(config, request.changed(fp8=False, placement="auto", kv_cache_dtype="auto"), machine)
    return not wide.fits or alone.fps >= wide.fps


def _refusals(model: MemoryModel, loads: list[GpuLoad]) -> list[str]:
    request, machine = model.request, model.machine
    reasons: list[str] = []
    clip = request.settings.infer_frames
    if clip <= 0 or clip % BLOCK_FRAMES:
        reasons.append(
            f"--infer_frames {clip}: a clip is made of blocks of {BLOCK_FRAMES} frames, so it must be a "
            f"multiple of {BLOCK_FRAMES}"
        )
    reasons += [
        f"GPU {load.gpu} ({load.role}) needs {load.total:.2f} GB ({parts(load.breakdown)}), and {load.usable:.2f} of "
        f"its {machine.gpus[load.gpu].memory_gb:.0f} GB are usable{_left(machine, load)}"
        for load in loads
        if not load.fits
    ]
    reasons += model.impossible(request.placement)
    host = model.host(request.placement, len(loads))
    if host["total"] > machine.host_gb:
        reasons.append(
            f"the host needs {host['total']:.1f} GB of memory ({parts(host)}), {machine.host_gb:.1f} are free"
        )
    return reasons + disk_refusals(model)


def disk_refusals(model: MemoryModel) -> list[str]:
    """Say which disk is too small for latents and video; one that has no room for snapshots as well is none of them."""
    machine, disk = model.machine, model.disk()
    needed = disk["total"] - disk["snapshots"]
    places = [("--out", machine.disk_gb, "give another folder")]
    if machine.home_gb is not None:
        places.append(("LIVEAVATAR_HOME", machine.home_gb, "set it to another folder"))
    return [
        f"the disk of {place} needs {_amount(needed)} for latents and video, {_amount(free)} are free: free some space "
        f"there, or {way_out}"
        for place, free, way_out in places
        if needed > free
    ]


def _amount(gb: float) -> str:
    return f"{gb:.1f} GB" if gb >= 1 else f"{gb * 1024:.0f} MB"


def _left(machine: Machine, load: GpuLoad) -> str:
    left = machine.gpus[load.gpu].leave_gb
    return f" ({left:g} GB are left to other programs)" if left else ""


def parts(named: dict[str, float]) -> str:
    """List the parts of a memory by size, the largest first, without those that round to nothing."""
    listed = sorted(((v, k) for k, v in named.items() if k != "total" and v >= 0.005), reverse=True)
    return ", ".join(f"{k} {v:.2f}" for v, k in listed)
