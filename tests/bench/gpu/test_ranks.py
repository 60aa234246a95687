"""The plan that ranks share, and what a rank says of its split."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from liveavatar.bench.gpu.build import DRY, FP8
from liveavatar.bench.gpu.ranks import STEPS, BenchRank, RanksPlan, rank_engine
from liveavatar.distributed.group import Group


@pytest.mark.parametrize(
    ("options", "device", "dtype"),
    [
        ({}, "cuda:2", torch.bfloat16),
        ({"shared": True}, "cuda:0", torch.bfloat16),
        ({"cpu": True}, "cpu", torch.float32),
    ],
)
def test_where_a_rank_computes(options: dict[str, bool], device: str, dtype: torch.dtype) -> None:
    plan = RanksPlan(config=DRY, world=3, size=(16, 16), blocks=1, **options)  # type: ignore[arg-type]
    assert (str(plan.device(2)), plan.dtype) == (device, dtype)


@pytest.mark.parametrize(
    ("decode_layers", "predicted", "by_times", "name"),
    [
        (None, False, False, "whole steps"),
        (2.0, False, False, "layers"),
        (0.0, False, False, "layers"),
        (2.0, True, False, "layers by the table"),
        (2.0, True, True, "layers by measured times"),
    ],
)
def test_split_name(decode_layers: float | None, predicted: bool, by_times: bool, name: str) -> None:
    placement: Any = SimpleNamespace(
        decode_layers=decode_layers, decode_layers_of=max if predicted else None, by_times=by_times
    )
    assert BenchRank(None, placement).split_name == name  # type: ignore[arg-type]


@pytest.mark.parametrize("world", [STEPS, STEPS + 1])
def test_only_a_rank_that_decodes_has_an_autoencoder(world: int) -> None:
    group = Group(world - 1, world, torch.device("cpu"), 1.0)
    rank = rank_engine(DRY, FP8, group, torch.float32, vae=False)
    assert rank.backend.vae is None
    assert rank.placement.own_decoder == (world > STEPS)
    assert len(rank.works(STEPS)) == world
