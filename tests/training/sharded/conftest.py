"""A group of this process alone, and small networks of the 14B's kind in it."""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from liveavatar.training import runtime
from liveavatar.training.sharded import checkpoint, command, options

OPTIONS = [
    *("--random", "--tiny", "--layers", "3", "--size", "64*64", "--blocks", "2", "--batch", "1"),
    *("--lora_rank", "4", "--lora_alpha", "2", "--updates", "4", "--adamw", "1e-2", "--guidance", "2"),
]


def tiny_args(out: Path, *more: str) -> argparse.Namespace:
    """Options of a run that takes seconds on a CPU."""
    return options.parser().parse_args([*OPTIONS, "--out", str(out), *more])


@pytest.fixture(scope="module")
def lone_rank() -> Iterator[runtime.TrainRank]:
    """This process, in a group of its own on the CPU; a process has one, so that tests of other modules find none."""
    rank = runtime.TrainRank(0, 1, torch.device("cpu"))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield rank
    dist.destroy_process_group()


Build = Callable[..., checkpoint.RunState]


@pytest.fixture(scope="module")
def build(lone_rank: runtime.TrainRank, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Make a run's state with more options than `OPTIONS`."""

    def made(*more: str) -> checkpoint.RunState:
        args = tiny_args(tmp_path_factory.mktemp("run"), *more)
        cfg = options.model_config(args)
        return command.build(args, cfg, command.window_source(args, cfg, lone_rank), lone_rank)

    return made


@torch.no_grad()
def disturb(state: checkpoint.RunState, seed: int = 0) -> None:
    """Give both sets effects that differ."""
    generator = torch.Generator().manual_seed(seed)
    for role in (state.student, state.fake):
        assert role.adapters is not None
        for parameter in role.adapters.parameters():
            whole = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.to_local().copy_(whole)  # type: ignore[attr-defined]
