"""Who sits where: which part of a job each GPU would hold under a placement, what it weighs, and the pace it gives.

A *seat* is one GPU with the parts it holds. Memory is counted in GB of 2^30 bytes.
"""

from dataclasses import dataclass, replace

from liveavatar.config import ModelConfig
from liveavatar.engine.placement import SLOTS, RankWork, split, split_layers
from liveavatar.hardware import GB, Gpu, Machine
from liveavatar.planning.costs import (
    BF16,
    FP8,
    FP32,
    DiTCosts,
    VAECosts,
    dit_costs,
    speech_bytes,
    text_bytes,
    vae_costs,
)
from liveavatar.planning.speed import Speeds, cpu_speeds, gpu_speeds
from liveavatar.timing import BLOCK_FRAMES, BLOCK_LATENTS, FPS, count_blocks

PROCESS_GB = 0.9  # Python, torch and the other libraries of one process
GPU_PROCESS_GB = 2.5  # the same with CUDA's libraries
RESIDENT_LAYERS = 2  # of an offloaded transformer: one computes, one arrives
# Of the decoder's graph over the peak of one block's temporaries: 5.1 GiB at 704*384 on an H100. Steps have one too.
RECORDED = 1.5
SPARE_GB = 3.0  # beside rings in bf16, when nobody asked for them: allocators keep pieces that are of no use
SNAPSHOTS = 3  # two are kept while the next is written
VIDEO_BYTES_PER_PIXEL_SECOND = 1.5  # of H.264 at our quality, generous


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRequest:
    """What is to be made, and how."""

    width: int  # pixels of the video
    height: int
    num_frames: int
    sample_steps: int = 4
    infer_frames: int = 48
    fp8: bool = False  # linears of the transformer in fp8
    kv_cache_dtype: str = "auto"  # of the rings: "bf16", "fp8" or "int8", or chosen by `with_kv_dtype`
    offload: bool = False  # weights of the transformer stay in host memory
    placement: str = "auto"
    online_decode: bool = False
    processes: int = 1  # of a `tpp` group on a CPU

    @property
    def size(self) -> str:
        """Width*height."""
        return f"{self.width}*{self.height}"


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuLoad:
    """One GPU and what it holds, in GB."""

    gpu: int
    name: str
    role: str
    total: float
    usable: float
    recorded: float  # what kernels recorded as CUDA graphs keep, where there is room: it is not in `total`
    breakdown: dict[str, float]


class MemoryModel:
    """One job on one machine: where things go and what they weigh."""

    def __init__(self, config: ModelConfig, job: PlanRequest, machine: Machine) -> None:
        self.config, self.job, self.machine = config, job, machine
        stride = config.vae.spatial_stride
        self.dit: DiTCosts = dit_costs(
            config.dit, job.width, job.height, stride, "bf16" if job.kv_cache_dtype == "auto" else job.kv_cache_dtype
        )
        self.vae: VAECosts = vae_costs(config.vae, config.dit.motion_latents, job.width, job.height)

    def placement(self) -> str:
        """The job's placement, or the best one for "auto": one GPU, tpp when one does not hold it."""
        if self.job.placement != "auto":
            return self.job.placement
        if len(self.machine.gpus) < 2 or not self.config.spreads:
            return "single"
        return "single" if all_fit(self.seats("single")) else "tpp"

    def impossible(self, placement: str) -> list[str]:
        """Reasons that no amount of memory removes."""
        gpus, large = self.machine.gpus, self.config.needs_gpu
        reasons = []
        if not gpus and large:
            reasons.append(f"{self.config.name} needs a GPU, and none is here")
        if not gpus and (self.job.fp8 or self.job.offload):
            reasons.append("--fp8 and --offload_model need a GPU, and none is here")
        if not gpus and placement == "tpp" and large:
            reasons.append("--placement tpp of this model needs GPUs")
        cache = f"--kv_cache_dtype {self.job.kv_cache_dtype}"
        if self.job.kv_cache_dtype != "auto" and not (gpus and self.config.has_kv_choice):
            reasons.append(f"{cache}: only the large model on a GPU has a choice")
        slow = [g.name for g in gpus if not g.rates.has_fp8]
        asked = {"--fp8": self.job.fp8, cache: self.job.kv_cache_dtype in ("fp8", "int8")}
        reasons += [f"{option}: {slow[0]} has no 8-bit matrix unit" for option, on in asked.items() if on and slow]
        return reasons

    def stages(self) -> tuple[RankWork, ...]:
        """What every GPU of a `tpp` placement does."""
        steps, gpus, layers = self.job.sample_steps, max(1, len(self.machine.gpus)), self.config.dit.num_layers
        if gpus > steps:
            return split(steps, steps + 1)
        if not self.fast:
            return split(steps, gpus)
        return split_layers(steps, layers, gpus, self.speeds().decode_layers(layers))

    @property
    def fast(self) -> bool:
        """Whether it takes the fast path, which can cut a step between two layers."""
        return bool(self.machine.gpus) and (self.config.fast_path or self.job.fp8)

    def _share(self, stage: RankWork) -> float:
        """Steps of a stage, parts of steps included."""
        layers = self.config.dit.num_layers
        return sum(len(span.layers) for span in stage.spans(layers)) / layers

    def seats(self, placement: str) -> list[GpuLoad]:
        """What every used GPU holds."""
        gpus = self.machine.gpus
        if not gpus:
            return []
        if placement == "tpp":
            return self.ranks(self.stages())
        used = len(gpus) if placement == "replicas" else 1
        alone = split(self.job.sample_steps, 1)[0]
        return [self._seat(i, gpus[i], alone) for i in range(used)]

    def ranks(self, stages: tuple[RankWork, ...]) -> list[GpuLoad]:
        """What the GPUs of a group hold when these are their stages."""
        return [self._seat(stage.rank, self.machine.gpus[stage.rank], stage) for stage in stages]

    def _seat(self, index: int, gpu: Gpu, stage: RankWork) -> GpuLoad:
        dit, vae, decodes = self.dit, self.vae, stage.decodes
        count = self._share(stage)
        parts: dict[str, float] = {}
        work: float = 0
        if count:
            if self.job.offload:
                streamed = dit.layer_weights * (FP8 if self.job.fp8 else BF16)
                all_layers = streamed * self.config.dit.num_layers
                parts["weights"] = dit.weight_bytes(self.job.fp8) - all_layers + RESIDENT_LAYERS * streamed
            else:
                parts["weights"] = dit.weight_bytes(self.job.fp8)
            parts["rings"] = count * dit.ring_bytes
            # Beside what rings carry in front, rotated to where their block sees it, lie the unrotated ones.
            parts["sinks"] = count * dit.held_sink_bytes + dit.sink_bytes
            parts["text"] = dit.text_bytes
            work = dit.activation_bytes + dit.workspace_bytes
        cuts = bool(stage.first_layer) + (stage.stop_layer is not None)
        if cuts:
            parts["transfers"] = cuts * SLOTS * dit.tokens * self.config.dit.dim * (FP32 + BF16)
        if decodes:  # it also encodes the picture; the other GPUs are sent what that gives
            parts["autoencoder"] = vae.weight_bytes + vae.state_bytes
        # On the fast path a block is decoded while the next one is denoised, each in memory of its own.
        decoding = vae.peak_bytes if decodes else 0
        parts["working memory"] = work + decoding if self.fast else max(work, decoding)
        breakdown = {name: size / GB for name, size in parts.items()}
        return GpuLoad(
            gpu=index,
            name=gpu.name,
            role=stage.role,
            total=sum(breakdown.values()),
            usable=gpu.usable_gb,
            recorded=RECORDED * decoding / GB if self.fast else 0.0,
            breakdown=breakdown,
        )

    def host(self, placement: str, num_seats: int) -> dict[str, float]:
        """Host memory by purpose."""
        ranks = num_seats or self.job.processes
        processes = max(1, ranks if placement != "single" else 1)
        # Prompt and speech are encoded once, one encoder after the other, and freed.
        encoder = max(text_bytes(self.config), speech_bytes(self.config)) / GB
        if self.machine.gpus:
            weights = self.dit.weight_bytes(self.job.fp8) / GB if self.job.offload else 0.0
            parts = {"processes": processes * GPU_PROCESS_GB, "encoders": encoder, "offloaded weights": weights}
        else:
            element = FP32 / BF16  # an old processor computes in fp32: count the worse case
            dit, vae = self.dit, self.vae
            movers = min(processes, self.job.sample_steps) if placement == "tpp" else 1
            caches = self.job.sample_steps * (dit.ring_bytes + 2 * dit.sink_bytes)
            parts = {
                "processes": processes * PROCESS_GB,
                "encoders": encoder,
                "weights": element * (movers * dit.weight_bytes(False) + vae.weight_bytes) / GB,
                "rings": element * caches / GB,
                "working memory": element * (dit.activation_bytes + vae.peak_bytes) / GB,
            }
        return parts | {"total": sum(parts.values())}

    def disk(self) -> dict[str, float]:
        """Disk space by purpose."""
        job, stride = self.job, self.config.vae.spatial_stride
        latent = self.config.vae.z_dim * (job.width // stride) * (job.height // stride)
        blocks = count_blocks(job.num_frames)
        caches = job.sample_steps * (self.dit.ring_bytes + self.dit.held_sink_bytes) + self.vae.state_bytes
        seconds = job.num_frames / FPS
        parts = {
            "latents": blocks * BLOCK_LATENTS * latent * FP32 / GB,
            "video": 2 * seconds * job.width * job.height * VIDEO_BYTES_PER_PIXEL_SECOND / GB,
            "snapshots": SNAPSHOTS * caches / GB,
        }
        return parts | {"total": sum(parts.values())}

    def speeds(self) -> Speeds:
        """Times on the slowest GPU, or on this CPU."""
        if not self.machine.gpus:
            return cpu_speeds(self.config, self.job.width, self.job.height, self.job.sample_steps)
        slowest = min(self.machine.gpus, key=lambda g: g.rates.bf16)
        layers = self.config.dit.num_layers
        return gpu_speeds(self.dit, self.vae, slowest.rates, layers, self.job.fp8, self.job.offload)

    def pace(self, placement: str, speeds: Speeds, num_seats: int) -> tuple[float, float]:
        """(frames per second, seconds to the first frame)."""
        steps = self.job.sample_steps
        first = speeds.start + (speeds.first or steps * speeds.step + speeds.decode)
        if placement == "tpp" and num_seats > 1:
            block = max(self._share(s) * speeds.step + (speeds.decode if s.decodes else 0) for s in self.stages())
        elif speeds.overlap and self.job.online_decode:
            block = max(steps * speeds.step, speeds.decode)
        else:
            block = steps * speeds.step + speeds.decode
        jobs = num_seats if placement == "replicas" else 1
        return jobs * BLOCK_FRAMES / block, first


def all_fit(seats: list[GpuLoad]) -> bool:
    """Whether no GPU is asked for more than it has."""
    return all(s.total <= s.usable for s in seats)


def with_kv_dtype(config: ModelConfig, job: PlanRequest, machine: Machine) -> PlanRequest:
    """The job with "auto" decided: rings in bf16 where they and the recorded kernels fit with room to spare, else in
    fp8 where the GPUs have it. Attention in 8 bits is only taken when it is asked for.
    """
    if job.kv_cache_dtype != "auto" or not config.has_kv_choice or not machine.gpus:
        return job
    wide = replace(job, kv_cache_dtype="bf16")
    seating = MemoryModel(config, wide, machine)
    roomy = all(s.total + s.recorded + SPARE_GB <= s.usable for s in seating.seats(seating.placement()))
    eight = all(gpu.rates.has_fp8 for gpu in machine.gpus)
    return replace(job, kv_cache_dtype="fp8") if eight and not roomy else wide
