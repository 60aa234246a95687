"""What every rank of a measured group is: what it is asked to do, its engine with random weights, how ranks agree."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from liveavatar.bench.gpu.build import BF16, FP8, FP8_ALL, FastBench, Mode, random_dit, random_vae
from liveavatar.checkpoints.load import LoadedModel
from liveavatar.config import ModelConfig
from liveavatar.distributed.group import Group
from liveavatar.distributed.rank import FastGroupEngine
from liveavatar.fast import accelerate

STEPS = 4
SHORT_BLOCKS = 5  # to see how long steps take

Tell = Callable[[str, dict[str, Any]], None]  # (section, row)


@dataclass(frozen=True, kw_only=True, slots=True)
class RanksPlan:
    """What all ranks do."""

    config: ModelConfig
    world: int
    size: tuple[int, int]  # pixels, width and height
    blocks: int
    checked: tuple[Mode, ...] = (BF16, FP8_ALL)  # for the bits of one GPU, on a small model
    modes: tuple[Mode, ...] = (FP8, BF16)  # for speed; the first one is spread anew until ranks are equally busy
    capped: tuple[tuple[int, int], ...] = ()  # sizes under the cap, in this order
    single_fps: float | None = None  # of one GPU in the first mode, if it is known
    alone: tuple[Mode, ...] = (FP8,)  # modes that are measured on one GPU too
    shared: bool = False  # all ranks on the first GPU, through host memory: for what fits, not for speed
    cpu: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights that are not in 8 bits."""
        return torch.float32 if self.cpu else torch.bfloat16

    def device(self, rank: int) -> torch.device:
        """Where a rank computes."""
        return torch.device("cpu") if self.cpu else torch.device("cuda", 0 if self.shared else rank)


class GroupBench(FastBench, FastGroupEngine):
    """The engine of a rank with random weights."""


def rank_engine(
    config: ModelConfig, mode: Mode, group: Group, dtype: torch.dtype, vae: bool, alike: bool = False
) -> GroupBench:
    """A rank with the same random weights as every other; `alike`: as `random_dit` has it."""
    dit = accelerate(random_dit(config.dit, group.device, dtype, alike), device=group.device, fp8=mode.fp8)
    decoder = random_vae(config, group.device, dtype) if vae else None
    model = LoadedModel(config=config, dit=dit, vae=decoder)
    own_decoder = group.world > STEPS
    engine = GroupBench(model, group, own_decoder)
    engine.kv_cache_dtype, engine.fp8 = mode.kv_cache_dtype, mode.fp8
    return engine


def everyone(group: Group, value: Any) -> list[Any]:
    """A value of every rank, on every rank."""
    values: list[Any] = [None] * group.world
    dist.all_gather_object(values, value)
    return values


def split_name(engine: GroupBench) -> str:
    """How the steps are spread, in words."""
    return "whole steps" if engine.decode_layers is None or engine.own_decoder else "layers"
