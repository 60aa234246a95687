"""The plan that ranks share, and what a rank says of its split."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from liveavatar.bench.gpu.build import DRY, FP8
from liveavatar.bench.gpu.capped import CARD
from liveavatar.bench.gpu.ranks import SPLITS, STEPS, BenchRank, RanksPlan, rank_engine
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
        decode_layers=decode_layers, decode_layers_of=max if predicted else None, by_times=by_times, layers=()
    )
    assert BenchRank(None, placement).split_name == name  # type: ignore[arg-type]
    placement.layers = (20, 20)
    assert BenchRank(None, placement).split_name == "circular"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("world", "asked", "taken"),
    [
        pytest.param(4, (), ("whole steps", "layers", "circular"), id="all"),
        pytest.param(4, ("circular",), ("circular",), id="asked for"),
        pytest.param(6, (), ("layers",), id="more ranks than steps, a decoder and layers"),
    ],
)
def test_which_ways_of_dividing_are_measured(world: int, asked: tuple[str, ...], taken: tuple[str, ...]) -> None:
    plan = RanksPlan(config=DRY, world=world, size=(64, 64), blocks=1, splits=asked)
    assert tuple(split for split in SPLITS if plan.takes(split)) == taken


def test_layers_that_go_round_are_those_of_the_largest_size() -> None:
    plan = RanksPlan(config=DRY, world=3, size=(64, 64), blocks=1, capped=((64, 64), (128, 64)))
    assert sum(plan.layers(CARD)) == DRY.dit.num_layers
    assert plan.layers(CARD)[-1] == min(plan.layers(CARD)), "it also decodes"
    rank = rank_engine(DRY, FP8, Group(1, 3, torch.device("cpu"), 1.0), torch.float32, vae=False, layers=(2, 1, 1))
    assert rank.backend.dit.kept == range(2, 3)
    assert [work.num_layers_of(4) for work in rank.works(STEPS)] == [8, 4, 4]


@pytest.mark.parametrize("world", [STEPS, STEPS + 1])
def test_only_a_rank_that_decodes_has_an_autoencoder(world: int) -> None:
    group = Group(world - 1, world, torch.device("cpu"), 1.0)
    rank = rank_engine(DRY, FP8, group, torch.float32, vae=False)
    assert rank.backend.vae is None
    assert rank.placement.own_decoder == (world > STEPS)
    assert len(rank.works(STEPS)) == world
