"""Shares by measured times: what is estimated, when a division changes, and what holds it back."""

from typing import Any

import numpy as np
import pytest
import torch

from liveavatar.config import LIVE_AVATAR_14B
from liveavatar.distributed.balance import ENOUGH, KEPT, Balance, Shape, rank_times
from liveavatar.engine.job import Block
from liveavatar.engine.memory import MemoryReading
from liveavatar.engine.placement import RankWork, split_layers

CFG = LIVE_AVATAR_14B.dit
SHAPE = Shape(h=48, w=88, num_steps=4, rings="bf16", skeleton=False)
FULL = CFG.window_latents // 3  # the first block whose rings are full
FRAMES = np.zeros((12, 1, 1, 3), np.uint8)


def counts(works: tuple[RankWork, ...]) -> list[int]:
    return [work.num_layers_of(40) for work in works]


def guess(ranks: int = 4, decode_layers: float = 20.0) -> tuple[RankWork, ...]:
    return split_layers(4, 40, ranks, decode_layers)


def block(busy: tuple[float, ...], wait: float, decode: float, left: float = 50.0, **changes: Any) -> Block:
    """A block of a group, with times in seconds and GB that every GPU has left."""
    memory = tuple(MemoryReading(1.0, 8.0, 64.0, 100.0 - left, 100.0, left) for _ in busy)
    facts: dict[str, Any] = {"index": FULL, "frames": FRAMES} | changes
    waits = (0.0,) * (len(busy) - 1) + (wait,)
    return Block(
        latents=torch.zeros(1), step_s=(1.0,) * 4, decode_s=decode, busy_s=busy, wait_s=waits, memory=memory, **facts
    )


def seen(works: tuple[RankWork, ...], layer_s: float, decode_s: float, left: float = 50.0) -> Block:
    """A block as GPUs with such times make it under a division; decoding fills the wait and then slows the layers."""
    busy = [count * layer_s for count in counts(works)]
    wait = max(0.0, max(busy) - busy[-1] - decode_s) if max(busy) > busy[-1] + decode_s else 0.0
    alone = min(wait, decode_s)
    busy[-1] += decode_s - alone
    return block(tuple(busy), wait, decode_s + busy[-1] / 2 * (alone < decode_s), left)


def noted(balance: Balance, *blocks: Block) -> Balance:
    for one in blocks:
        balance.note(one)
    return balance


@pytest.mark.parametrize(
    ("busy", "wait", "decode", "rest"),
    [
        pytest.param((3.0, 3.0, 3.0), 0.0, 2.5, 1.0, id="decoding slows the layers of the last"),
        pytest.param((3.0, 3.0, 2.0), 1.0, 0.5, 0.5, id="decoding fills the wait"),
        pytest.param((3.0, 3.0, 2.25), 0.5, 1.0, 0.75, id="decoding fills the wait, and slows the layers"),
        pytest.param((3.0, 3.0, 1.5), 0.0, 0.0, 0.0, id="never less than nothing"),
    ],
)
def test_what_decoding_takes(busy: tuple[float, ...], wait: float, decode: float, rest: float) -> None:
    times = rank_times((30, 30, 20), busy, wait, decode)
    assert times.layer == pytest.approx((0.1, 0.1, 0.1))
    assert times.rest == pytest.approx(rest)


def test_a_rank_of_the_decoder_alone_and_gpus_of_two_speeds() -> None:
    times = rank_times((20, 20, 0), (1.0, 3.0, 0.0), 0.5, 2.0)
    assert times.layer == pytest.approx((0.05, 0.15, 0.1))
    assert times.rest == 2.0
    assert times.busy((20, 20, 0)) == pytest.approx([1.0, 3.0, 2.0])


def test_the_next_job_is_divided_by_the_times_of_the_first() -> None:
    balance = Balance(CFG, SHAPE)
    first = balance.begin(guess(decode_layers=10.0))
    assert counts(first) == [43, 43, 42, 32] or max(counts(first)) == 43
    noted(balance, *[seen(first, 0.01, 0.3)] * (ENOUGH - 1))
    assert balance.begin(guess(decode_layers=10.0)) == first, "too few blocks"
    noted(balance, seen(first, 0.01, 0.3))
    second = balance.begin(guess(decode_layers=10.0))
    assert counts(second) == [48, 48, 47, 17], "decoding takes as long as 30 layers"
    assert balance.by_times
    assert balance.measured() is None, "times of another division are forgotten"
    assert balance.begin(guess(decode_layers=10.0)) == second, "and what they gave is kept"
    noted(balance, *[seen(second, 0.01, 0.3)] * KEPT)
    assert balance.begin(guess()) == second, "nothing left to gain"


def test_a_small_gain_is_left() -> None:
    balance = Balance(CFG, SHAPE)
    first = balance.begin(guess(decode_layers=20.0))
    noted(balance, *[seen(first, 0.01, 0.21)] * ENOUGH)
    assert balance.begin(guess()) == first
    assert not balance.by_times


def test_a_full_gpu_gets_no_more_layers() -> None:
    one = SHAPE.layer_gb(CFG)
    assert 0.2 < one < 0.4, "a ring of bf16 at 704*384 takes 11 GB in all 40 layers"
    for left, most in ((1.0, 42), (1.0 + 3.5 * one, 45), (50.0, 48)):
        balance = Balance(CFG, SHAPE)
        first = balance.begin(split_layers(4, 40, 4, 8.0))
        assert max(counts(first)) == 42
        noted(balance, *[seen(first, 0.01, 0.3, left)] * ENOUGH)
        assert max(counts(balance.begin(guess()))) == most


def test_only_decoded_blocks_with_full_rings_count() -> None:
    balance = Balance(CFG, SHAPE)
    first = balance.begin(guess())
    good = seen(first, 0.01, 0.3)
    early = block(good.busy_s, 0.0, 0.3, index=FULL - 1)
    spooled = block(good.busy_s, 0.0, 0.0, frames=None)
    noted(balance, *[early, spooled] * KEPT)
    assert balance.measured() is None
