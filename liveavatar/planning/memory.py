"""Memory model: bytes per GPU, on the host and on disk of a job under a placement, and its frames per second.

Memory is counted in GB of 2^30 bytes.
"""

import math
from dataclasses import dataclass
from functools import cached_property

from liveavatar.config import SKELETON_VIDEO, ModelConfig
from liveavatar.engine.placement import SLOTS, RankTimes, RankWork, split
from liveavatar.hardware import GB, Gpu, Machine
from liveavatar.planning.costs import (
    BF16,
    FP8,
    FP32,
    DiTCosts,
    VAECosts,
    dit_costs,
    live_speech_bytes,
    speech_bytes,
    text_bytes,
    vae_costs,
)
from liveavatar.planning.division import divide
from liveavatar.planning.options import MachineUse, most_ranks, option_errors
from liveavatar.planning.request import PlanRequest
from liveavatar.planning.speed import Speeds, cpu_speeds, gpu_speeds
from liveavatar.timing import BLOCK_FRAMES, BLOCK_LATENTS, FPS, count_blocks

PROCESS_GB = 0.9  # Python, torch and the other libraries of one process
GPU_PROCESS_GB = 2.5  # the same with CUDA's libraries
RESIDENT_LAYERS = 2  # of an offloaded transformer: one computes, one arrives
# CUDA graph of the decoder over the peak of one block's temporaries: 4.4 GiB at 704*384 on an H200. Those of steps,
# where layers are on the GPU, keep what one of them computes in.
GRAPH_SHARE = 1.5
# Pieces that the allocator of a rank holds beside its tensors and cannot use, in a full GPU: 0.7 to 0.9 GiB where four
# ranks were limited to 22.15 GiB (data/benchmarks/gpu_h200_4ranks_2026-11-23.md).
FRAGMENTS_GB = 0.8
# Of a block's time that a GPU works where blocks go round: 0.33 of 0.376 s on two H200s
# (data/benchmarks/gpu_2xh200_circular_2026-11-30.md); the rest it waits for the other one. Assumed for more.
CIRCULAR_SHARE = 0.88
SNAPSHOTS = 3  # two are kept while the next is written
VIDEO_BYTES_PER_PIXEL_SECOND = 1.5  # of H.264 at our quality, generous


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuLoad:
    """Memory of one GPU by purpose, in GB."""

    gpu: int
    name: str
    role: str
    total: float
    allocated: float  # of it, in tensors at one time; the rest is what the allocator keeps beside them
    usable: float
    recorded: float  # kept by CUDA graphs, which are recorded only where there is room; not in `total`
    breakdown: dict[str, float]

    @property
    def fits(self) -> bool:
        """True when the GPU has room for it."""
        return self.total <= self.usable

    @property
    def share(self) -> float:
        """Share of the usable memory that is needed."""
        return self.total / self.usable if self.usable else math.inf


class MemoryModel:
    """Bytes and pace of one job on one machine, for each placement."""

    def __init__(self, config: ModelConfig, request: PlanRequest, machine: Machine) -> None:
        self.config, self.request, self.settings, self.machine = config, request, request.settings, machine
        stride = config.vae.spatial_stride
        dtype = "bf16" if self.settings.kv_cache_dtype == "auto" else self.settings.kv_cache_dtype
        self.dit: DiTCosts = dit_costs(config.dit, request.width, request.height, stride, dtype)
        self.vae: VAECosts = vae_costs(config.vae, config.dit.motion_latents, request.width, request.height)

    def used(self, placement: str) -> tuple[Gpu, ...]:
        """Return the GPUs that a job uses under a placement: the first ones."""
        gpus = self.machine.gpus
        if placement == "tpp":
            return gpus[: len(self.rank_work())]
        return gpus if placement == "replicas" else gpus[:1]

    def most_ranks(self) -> int:
        """Count the GPUs that a `tpp` placement keeps busy: with one more, all would wait for the one that decodes."""
        gpus, settings = self.machine.gpus, self.settings
        most = most_ranks(self.config, settings, len(gpus))
        if not self.fast:
            return most
        layers = self.config.dit.num_layers
        decode_layers = self.speeds(gpus[:most][-1]).decode_layers(layers)
        return min(most, 1 + math.ceil(settings.sample_steps * layers / decode_layers))

    def impossible(self, placement: str) -> list[str]:
        """List the reasons that no amount of memory removes."""
        gpus, settings = self.used(placement), self.settings
        use = MachineUse(offload=self.request.offload, placement=placement)
        reasons = [str(error) for error in option_errors(self.config, settings, use, len(self.machine.gpus))]
        if not gpus and self.config.needs_gpu:
            reasons.insert(0, f"{self.config.name} needs a GPU, and none is here")
        dtype = settings.kv_cache_dtype
        cache = f"--kv_cache_dtype {dtype}"
        slow = [g.name for g in gpus if not g.rates.has_fp8]
        eight_bit = {"--fp8": self.settings.fp8, cache: dtype in ("fp8", "int8", "e4m3")}
        reasons += [f"{option}: {slow[0]} has no 8-bit matrix unit" for option, on in eight_bit.items() if on and slow]
        other = [g.name for g in gpus if g.rates.has_fp8 and not g.rates.flash3_e4m3]
        if dtype == "e4m3" and other:
            reasons.append(f"{cache}: {other[0]} does not run FlashAttention-3; it needs a Hopper GPU and fa3-fwd")
        return reasons

    def rank_work(self) -> tuple[RankWork, ...]:
        """Return each GPU's share of a `tpp` placement; see `liveavatar.planning.division`."""
        return self._division

    @cached_property
    def _division(self) -> tuple[RankWork, ...]:
        gpus = self.machine.gpus[: self.most_ranks()]
        if not self.fast:
            return split(self.settings.sample_steps, len(gpus) or self.request.processes)
        return divide(self, gpus, self.settings.sample_steps, self.config.dit.num_layers)

    def holds(self, works: tuple[RankWork, ...]) -> bool:
        """Tell if a division fits its GPUs and the host, and each of them computes in the dtypes that are asked for."""
        settings, gpus = self.settings, self.machine.gpus[: len(works)]
        in_8_bits = settings.fp8 or settings.kv_cache_dtype in ("fp8", "int8", "e4m3")
        return (
            all(load.fits for load in self.rank_loads(works))
            and self.host("tpp", len(works))["total"] <= self.machine.host_gb
            and (not in_8_bits or all(gpu.rates.has_fp8 for gpu in gpus))
            and (settings.kv_cache_dtype != "e4m3" or all(gpu.rates.flash3_e4m3 for gpu in gpus))
        )

    def layers(self, placement: str) -> tuple[int, ...]:
        """Return the layers that each GPU keeps of a `tpp` placement whose blocks go round; of any other none."""
        works, num_layers = self.rank_work() if placement == "tpp" else (), self.config.dit.num_layers
        return tuple(work.num_layers_of(num_layers) // len(work.steps) for work in works if work.circular)

    def own_decoder(self, placement: str) -> bool:
        """Tell if the last process of a `tpp` placement decodes and does nothing else."""
        return placement == "tpp" and not self.rank_work()[-1].steps

    @property
    def fast(self) -> bool:
        """True when the job takes the fast path, which can cut a step between two layers."""
        options = {"fp8": self.settings.fp8, "offload": self.request.offload}
        return bool(self.machine.gpus) and self.config.runs_fast(**options)

    @property
    def drawn(self) -> bool:
        """True when a drawn skeleton is encoded beside the video."""
        return self.request.posed and self.config.pose_input == SKELETON_VIDEO

    def _kept(self, work: RankWork) -> float:
        """Return the share of the transformer's layers that a rank keeps the weights and sinks of."""
        return self._num_steps(work) / len(work.steps) if work.circular else 1.0

    def _busy(self, works: tuple[RankWork, ...]) -> list[float]:
        """Predict the seconds that each GPU is busy with a block."""
        ranks = [(self._num_steps(work), work.decodes, self.speeds(self.machine.gpus[work.rank])) for work in works]
        return [
            count * speeds.step + ((speeds.decode + self.drawn * speeds.pose) if decodes else 0)
            for count, decodes, speeds in ranks
        ]

    def block_seconds(self, works: tuple[RankWork, ...]) -> float:
        """Predict the seconds between two blocks of a group."""
        return max(self._busy(works)) / (CIRCULAR_SHARE if works[0].circular else 1)

    def _num_steps(self, work: RankWork) -> float:
        """Count the steps of a rank, parts of steps included."""
        layers = self.config.dit.num_layers
        return work.num_layers_of(layers) / layers

    def loads(self, placement: str) -> list[GpuLoad]:
        """Return the load of every GPU that is used; none on a CPU."""
        gpus = self.machine.gpus
        if not gpus:
            return []
        if placement == "tpp":
            return self.rank_loads(self.rank_work())
        return self._whole_loads(placement, self.rings_on_host(placement))

    def rings_on_host(self, placement: str) -> bool:
        """Tell if keys and values wait in host memory, as weights do: where a GPU has no room for them."""
        waits = self.request.offload and placement != "tpp"
        return waits and not all(load.fits for load in self._whole_loads(placement, False))

    def _whole_loads(self, placement: str, rings_on_host: bool) -> list[GpuLoad]:
        alone = split(self.settings.sample_steps, 1)[0]
        gpus = self.used(placement)
        return [self._load(i, gpu, alone, rings_on_host=rings_on_host) for i, gpu in enumerate(gpus)]

    def rank_loads(self, ranks: tuple[RankWork, ...]) -> list[GpuLoad]:
        """Return the load of each GPU of a group, one rank a GPU."""
        fragments = FRAGMENTS_GB if len(ranks) > 1 else 0.0
        return [self._load(work.rank, self.machine.gpus[work.rank], work, fragments) for work in ranks]

    def _load(
        self, index: int, gpu: Gpu, work: RankWork, fragments: float = 0.0, rings_on_host: bool = False
    ) -> GpuLoad:
        dit, vae, decodes = self.dit, self.vae, work.decodes
        num_steps, kept = self._num_steps(work), self._kept(work)
        parts: dict[str, float] = {}
        denoising: float = 0
        if num_steps:
            if self.request.offload:
                here = RESIDENT_LAYERS * dit.layer_weights - dit.step_weights - dit.text_weights
                element = FP8 if self.settings.fp8 else BF16
                parts["weights"] = dit.weight_bytes(self.settings.fp8) + here * element
            else:
                parts["weights"] = dit.weight_bytes(self.settings.fp8, kept)
            rings = dit.stage_share / self.config.dit.num_layers if rings_on_host else num_steps
            parts["rings"] = rings * dit.ring_bytes
            # The rings hold copies rotated to the position of their block; the unrotated originals are kept as well.
            copies = 1 / self.config.dit.num_layers if rings_on_host else num_steps
            parts["sinks"] = copies * dit.ring_sink_bytes + kept * dit.sink_bytes
            parts["text"] = kept * dit.text_bytes
            if dit.workspace_bytes:
                parts["converted ring"] = dit.workspace_bytes
            denoising = dit.activation_bytes
        cuts = bool(work.first_layer) + (work.stop_layer is not None)
        if cuts:
            # What arrives or leaves waits in slots, and lies where the graphs of steps read or write it.
            parts["transfers"] = cuts * (SLOTS + 1) * dit.tokens * self.config.dit.dim * (FP32 + BF16)
        if decodes:  # this rank also encodes the picture and sends the result to the others
            parts["autoencoder"] = vae.weight_bytes + vae.state_bytes
            if self.drawn:
                parts["pose encoder"] = vae.pose_bytes
            if self.request.piped:
                parts["speech encoder"] = live_speech_bytes(self.config)
        decoding = vae.peak_bytes if decodes else 0
        parts["working memory"] = max(denoising, decoding)
        breakdown = {name: size / GB for name, size in parts.items()}
        allocated = sum(breakdown.values())
        if self.fast and denoising and decoding:
            # A block is decoded on a CUDA stream of its own, and the allocator keeps the memory of each to itself.
            breakdown["other stream"] = min(denoising, decoding) / GB
        if fragments:
            breakdown["fragments"] = fragments
        graphs = GRAPH_SHARE * decoding + (not self.request.offload) * denoising if self.fast else 0.0
        return GpuLoad(
            gpu=index,
            name=gpu.name,
            role=work.role,
            total=sum(breakdown.values()),
            allocated=allocated,
            usable=gpu.usable_gb,
            recorded=graphs / GB,
            breakdown=breakdown,
        )

    def host(self, placement: str, num_gpus: int) -> dict[str, float]:
        """Return host memory by purpose, in GB, with "total"; `num_gpus` are used, 0 on a CPU."""
        ranks = num_gpus or self.request.processes
        processes = max(1, ranks if placement != "single" else 1)
        # Prompt and speech are encoded once, one encoder after the other, and freed.
        encoder = max(text_bytes(self.config), speech_bytes(self.config)) / GB
        if self.machine.gpus:
            waiting = (self.dit.step_weights + self.dit.text_weights) * self.request.offload
            weights = waiting * (FP8 if self.settings.fp8 else BF16) / GB
            rings = self.all_rings_gb if self.rings_on_host(placement) else 0.0
            parts = {
                "processes": processes * GPU_PROCESS_GB,
                "encoders": encoder,
                "offloaded weights": processes * weights,
                "offloaded rings": processes * rings,
            }
        else:
            element = FP32 / BF16  # an old processor computes in fp32: count the worse case
            dit, vae = self.dit, self.vae
            denoisers = min(processes, self.settings.sample_steps) if placement == "tpp" else 1
            rings = self.settings.sample_steps * (dit.ring_bytes + 2 * dit.sink_bytes)
            parts = {
                "processes": processes * PROCESS_GB,
                "encoders": encoder,
                "weights": element * (denoisers * dit.weight_bytes(False) + vae.weight_bytes) / GB,
                "rings": element * rings / GB,
                "working memory": element * (dit.activation_bytes + vae.peak_bytes) / GB,
            }
        return parts | {"total": sum(parts.values())}

    @property
    def all_rings_gb(self) -> float:
        """Keys and values of earlier blocks of all steps, without sinks."""
        return self.settings.sample_steps * self.dit.ring_bytes / GB

    def disk(self) -> dict[str, float]:
        """Return disk space by purpose, in GB, with "total"."""
        request, stride = self.request, self.config.vae.spatial_stride
        latent = self.config.vae.z_dim * (request.width // stride) * (request.height // stride)
        blocks = count_blocks(request.num_frames)
        sinks = 0 if self.rings_on_host(request.placement) else self.dit.ring_sink_bytes
        state = self.settings.sample_steps * (self.dit.ring_bytes + sinks) + self.vae.state_bytes
        seconds = request.num_frames / FPS
        parts = {
            "latents": blocks * BLOCK_LATENTS * latent * FP32 / GB,
            "video": 2 * seconds * request.width * request.height * VIDEO_BYTES_PER_PIXEL_SECOND / GB,
            "snapshots": SNAPSHOTS * state / GB,
        }
        return parts | {"total": sum(parts.values())}

    def speeds(self, gpu: Gpu | None, rings_on_host: bool = False) -> Speeds:
        """Predict the times on a GPU, or measure them on this CPU."""
        if gpu is None:
            return cpu_speeds(self.config, self.request.width, self.request.height, self.settings.sample_steps)
        layers = self.config.dit.num_layers
        offload = self.request.offload
        return gpu_speeds(self.dit, self.vae, gpu.rates, layers, self.settings.fp8, offload, rings_on_host)

    def bound(self, placement: str) -> float | None:
        """Return an upper bound of the frames per second of a spread job: no GPU ever waits; None for one that is not.

        It is 12 frames over the time of all layers and one decoding, shared by the GPUs; a block is decoded on one.
        """
        gpus, layers = self.used(placement), self.config.dit.num_layers
        if placement != "tpp" or len(gpus) < 2:
            return None
        return BLOCK_FRAMES / self.times(gpus).bound(self.settings.sample_steps * layers)

    def times(self, gpus: tuple[Gpu, ...]) -> RankTimes:
        """Predict the seconds of a layer on each GPU of a group, and of what the last does beside."""
        speeds = [self.speeds(gpu) for gpu in gpus]
        rest = speeds[-1].decode + self.drawn * speeds[-1].pose
        return RankTimes(tuple(one.step / self.config.dit.num_layers for one in speeds), rest)

    def pace(self, placement: str, rings_on_host: bool | None = None) -> tuple[float, float]:
        """Return (frames per second, seconds to the first frame), with rings in host memory or not; None: as it is."""
        steps, gpus = self.settings.sample_steps, self.used(placement) or (None,)
        if placement == "tpp" and len(gpus) > 1:
            works = self.rank_work()
            busy, start = self._busy(works), self.speeds(gpus[works[-1].rank]).start
            # Where blocks go round, another one is ahead of the first in every lap.
            ahead = max(self._num_steps(w) * self.speeds(gpus[w.rank]).step for w in works) if works[0].circular else 0
            return BLOCK_FRAMES / self.block_seconds(works), start + sum(busy) + ahead
        rings_on_host = self.rings_on_host(placement) if rings_on_host is None else rings_on_host
        alone = [self.speeds(gpu, rings_on_host) for gpu in gpus]
        blocks = [
            max(steps * speeds.step, speeds.decode)
            if speeds.overlap and self.request.online_decode
            else speeds.block(steps)
            for speeds in alone
        ]
        first = alone[0].start + (alone[0].first or steps * alone[0].step + alone[0].decode)
        blocks = [block + self.drawn * speeds.pose for block, speeds in zip(blocks, alone, strict=True)]
        return sum(BLOCK_FRAMES / block for block in blocks), first + self.drawn * alone[0].pose
