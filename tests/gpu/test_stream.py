"""The fast path on a GPU: recorded, overlapped and resumed streams equal the plain engine's."""

import gc
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from liveavatar.bench.gpu.build import (
    ATTENTION8,
    BF16,
    DRY,
    E4M3,
    FP8,
    FP8_ALL,
    OFFLOADED,
    Mode,
    bench_job,
    fast_engine,
    plain_engine,
    random_vae,
    release,
)
from liveavatar.config import LIVE_AVATAR_14B
from liveavatar.fast.flash3 import flash3
from liveavatar.fast.gpu_graph import RecordedGraph, record

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

# Heads of 128 as attention kernels like them; widths in the multiples of 16 that 8-bit products want.
CONFIG = replace(DRY, dit=replace(DRY.dit, dim=256, num_heads=2, ffn_dim=512))
SIZE = (128, 64)


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    release()


def test_fp32_equals_the_plain_engine() -> None:
    cuda = torch.device("cuda")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    wanted = list(plain_engine(CONFIG, cuda, torch.float32).open(bench_job(CONFIG, SIZE, 9)).blocks())
    got = list(fast_engine(CONFIG, BF16, cuda, torch.float32).open(bench_job(CONFIG, SIZE, 9)).blocks())
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a.latents, b.latents, atol=2e-3, rtol=2e-3)
        assert a.frames is not None
        assert b.frames is not None
        assert np.abs(a.frames.astype(int) - b.frames).max() <= 2


def test_offloaded_layers_make_the_bits_of_resident_ones() -> None:
    made = [
        torch.stack([b.latents for b in engine.open(bench_job(CONFIG, SIZE, 6)).blocks(decode=False)])
        for engine in (fast_engine(CONFIG, mode, torch.device("cuda"), torch.bfloat16) for mode in (FP8_ALL, OFFLOADED))
    ]
    assert torch.equal(*made)


def test_a_still_picture_gives_the_latents_of_its_video() -> None:
    vae = random_vae(LIVE_AVATAR_14B, torch.device("cuda"), torch.bfloat16)
    picture = torch.rand(1, 3, 1, 64, 128, device="cuda").bfloat16() * 2 - 1
    video = picture.expand(-1, -1, 73, -1, -1)
    assert torch.equal(vae.encode_still(picture, 19), vae.encode(video))  # type: ignore[operator]


NEEDS_FLASH3 = pytest.mark.skipif(
    not torch.cuda.is_available() or flash3(torch.device("cuda")) is None, reason="needs a Hopper GPU and fa3-fwd"
)


@pytest.mark.parametrize(
    "mode", [BF16, FP8, ATTENTION8, pytest.param(E4M3, marks=NEEDS_FLASH3), OFFLOADED], ids=lambda mode: mode.name
)
def test_a_block_at_a_time_equals_overlapped_and_resumed(mode: Mode) -> None:
    engine = fast_engine(CONFIG, mode, torch.device("cuda"), torch.bfloat16)
    made, state = [], {}
    for block in engine.open(bench_job(CONFIG, SIZE, 8)).blocks(snapshot_every=5):
        made.append(block)
        if block.state is not None and not state:
            state = {k: v.clone() for k, v in block.state.items()}
    stream = engine.open(bench_job(CONFIG, SIZE, 8))
    for wanted in made:
        got = stream.next_block()
        assert torch.equal(got.latents, wanted.latents)
        assert np.array_equal(got.frames, wanted.frames)  # type: ignore[arg-type]
    stream = engine.open(bench_job(CONFIG, SIZE, 8))
    stream.restore(state)
    for got, wanted in zip(stream.blocks(), made[5:], strict=True):
        assert torch.equal(got.latents, wanted.latents)
        assert np.array_equal(got.frames, wanted.frames)  # type: ignore[arg-type]


def test_graphs_of_earlier_jobs_may_become_garbage_while_a_job_records() -> None:
    """Collected within a recording they ended it, and what the process did next on the GPU."""
    x = torch.ones(8, device="cuda")
    old = RecordedGraph(lambda: x.mul_(1), enabled=True)
    for _ in range(2):
        old()
    dead: list[object] = [old]
    dead.append(dead)
    del old
    held = [dead]
    del dead

    def work() -> None:
        held.clear()
        _ = [[] for _ in range(1000)]  # garbage is collected after so many
        x.add_(1)

    before = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        recorded = record(work)
    finally:
        gc.set_threshold(*before)
    assert recorded is not None
    recorded[0].replay()
    assert x.tolist() == [2.0] * 8
