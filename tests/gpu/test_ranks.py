"""Steps spread over GPUs, and over ranks that share one: the bits of one GPU, with graphs on."""

import pytest
import torch

from liveavatar.bench.gpu.build import BF16, DRY, FP8, FP8_ALL
from liveavatar.bench.gpu.ranks import SPLITS, RanksPlan
from liveavatar.bench.gpu.tpp import run_group

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    "shared",
    [
        pytest.param(
            False,
            marks=pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
            id="two GPUs, over NCCL",
        ),
        pytest.param(
            True,
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
            id="one GPU, through host memory",
        ),
    ],
)
def test_two_ranks_make_the_latents_of_one(shared: bool) -> None:
    found: list[dict] = []
    plan = RanksPlan(
        config=DRY, world=2, size=(128, 64), blocks=1, checked=(BF16, FP8, FP8_ALL), modes=(), shared=shared
    )
    run_group(plan, lambda section, row: found.append(row))
    assert len(found) == len(SPLITS) * len(plan.checked)
    assert [row["distance"] for row in found] == [0.0] * len(found)
