"""Steps spread over two GPUs: the bits of one of them, over NCCL, with graphs on."""

import pytest
import torch

from liveavatar.bench_gpu.build import BF16, DRY, FP8, FP8_ALL
from liveavatar.bench_gpu.tpp import Plan, run_group

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]


def test_two_gpus_make_the_latents_of_one() -> None:
    found: list[dict] = []
    plan = Plan(config=DRY, world=2, size=(128, 64), blocks=1, checked=(BF16, FP8, FP8_ALL), modes=())
    run_group(plan, lambda section, row: found.append(row))
    assert len(found) == 6
    assert [row["distance"] for row in found] == [0.0] * 6
