"""Ranks of a measured group: the plan they share, an engine with random weights, and how they exchange values."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from liveavatar.bench.gpu.build import BF16, FP8, FP8_ALL, BenchEngine, Mode, bench_engine, random_dit, random_vae
from liveavatar.checkpoints.load import LoadedModel
from liveavatar.config import ModelConfig
from liveavatar.distributed.group import Group
from liveavatar.distributed.placement import GroupPlacement, RankSpec
from liveavatar.engine.job import StreamJob
from liveavatar.engine.placement import RankTimes, RankWork, share_layers
from liveavatar.engine.stream import Stream
from liveavatar.fast import accelerate
from liveavatar.fast.attention import FastAttention
from liveavatar.fast.backend import FastBackend
from liveavatar.hardware import Gpu
from liveavatar.planning.speed import decode_layers

STEPS = 4
SHORT_BLOCKS = 5  # to see how long steps take
TRYING = "trying"  # section of what is begun under the cap, in case that it ends the ranks
WHOLE_STEPS, LAYERS, CIRCULAR = SPLITS = ("whole steps", "layers", "circular")

Tell = Callable[[str, dict[str, Any]], None]  # (section, row)


@dataclass(frozen=True, kw_only=True, slots=True)
class RanksPlan:
    """Plan of a run, the same for all ranks."""

    config: ModelConfig
    world: int
    size: tuple[int, int]  # pixels, width and height
    blocks: int
    checked: tuple[Mode, ...] = (BF16, FP8_ALL)  # for the bits of one GPU, on a small model
    modes: tuple[Mode, ...] = (FP8, BF16)  # for speed; the first one is spread anew until ranks are equally busy
    capped: tuple[tuple[int, int], ...] = ()  # sizes under the cap, in this order
    tried: tuple[tuple[str, str], ...] = ()  # sizes and ways of dividing that are left out under the cap
    single_fps: float | None = None  # of one GPU in the first mode, if it is known
    alone: tuple[Mode, ...] = (FP8,)  # modes that are measured on one GPU too
    guess: float | None = None  # layers that decoding counts as at first; None: by the planner's table
    splits: tuple[str, ...] = ()  # of `SPLITS`, under the cap and for speed; none: all that the number of ranks allows
    shared: bool = False  # all ranks on the first GPU, through host memory: for what fits, not for speed
    cpu: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights that are not in 8 bits."""
        return torch.float32 if self.cpu else torch.bfloat16

    def takes(self, split: str) -> bool:
        """Return whether a way of dividing is measured."""
        most = {WHOLE_STEPS: STEPS + 1, CIRCULAR: self.config.dit.num_layers}.get(split, self.world)
        return self.world <= most and (not self.splits or split in self.splits)

    def layers(self, gpu: Gpu) -> tuple[int, ...]:
        """Return the layers that each rank keeps where blocks go round, as planned for the largest size."""
        size = max((self.size, *self.capped), key=lambda size: size[0] * size[1])
        weight = decode_layers(self.config, gpu.rates, True, *size, FP8_ALL.kv_cache_dtype)
        return share_layers(STEPS, self.config.dit.num_layers, RankTimes((1.0,) * self.world, weight))

    def device(self, rank: int) -> torch.device:
        """Return the device of a rank."""
        return torch.device("cpu") if self.cpu else torch.device("cuda", 0 if self.shared else rank)


@dataclass(frozen=True, slots=True)
class BenchRank:
    """A rank of a measured group: its engine with random weights, and the placement it takes part in."""

    bench: BenchEngine
    placement: GroupPlacement

    @property
    def backend(self) -> FastBackend:
        """Networks of the rank."""
        return self.bench.backend

    def open(self, job: StreamJob) -> Stream:
        """Open a job on the whole group, from the last rank."""
        return self.bench.open(job)

    def works(self, num_steps: int) -> tuple[RankWork, ...]:
        """Return each rank's share of a job."""
        return self.placement.works(num_steps)

    def serve(self) -> bool:
        """Take part in the next job of the last rank."""
        return self.placement.serve(self.backend)

    def forget_sizes(self) -> None:
        """Free buffers and graphs of past jobs."""
        self.bench.forget_sizes()

    @property
    def split_name(self) -> str:
        """Name the kind of split of the denoise steps, for reports."""
        placement = self.placement
        if placement.layers:
            return CIRCULAR
        if placement.decode_layers is None:
            return WHOLE_STEPS
        if placement.decode_layers_of is None:
            return LAYERS
        return "layers by measured times" if placement.by_times else "layers by the table"


def rank_engine(
    config: ModelConfig,
    mode: Mode,
    group: Group,
    dtype: torch.dtype,
    vae: bool,
    alike: bool = False,
    layers: tuple[int, ...] = (),
) -> BenchRank:
    """Make a rank with the same random weights as every other.

    Args:
        config: of the model.
        mode: precisions.
        group: its ranks.
        dtype: of the weights that are not in 8 bits.
        vae: whether this rank has the autoencoder.
        alike: that of `random_dit`.
        layers: of each rank, where blocks go round; none: every rank has all.
    """
    plain = random_dit(config.dit, group.device, dtype, alike)
    kept = RankSpec(rank=group.rank, world=group.world, own_decoder=False, layers=layers).kept
    if kept is not None:
        plain.keep_layers(kept)
    dit = accelerate(plain, device=group.device, fp8=mode.fp8, attention=FastAttention(group.agree))
    decoder = random_vae(config, group.device, dtype) if vae else None
    backend = FastBackend(LoadedModel(config=config, dit=dit, vae=decoder), group.device, mode.fp8)
    own_decoder = group.world > STEPS and not layers
    placement = GroupPlacement(group, config.dit.num_layers, own_decoder, layers=layers)
    return BenchRank(bench_engine(backend, mode, placement), placement)


def everyone(group: Group, value: Any) -> list[Any]:
    """Gather a value of every rank on every rank."""
    values: list[Any] = [None] * group.world
    dist.all_gather_object(values, value)
    return values
