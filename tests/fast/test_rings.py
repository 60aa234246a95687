"""Rings: attention over exactly the sinks and the newest tokens, in 16 and in 8 bits; snapshots; another stream."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from liveavatar.fast.attention import FastAttention
from liveavatar.fast.reference import rms_rows, rotate_rows
from liveavatar.fast.rings import Bf16Ring, E4m3Ring, Fp8Ring, Projected, Ring, Ring8, Rotation, Workspace
from liveavatar.model.kv_ring import Sink

N, H, L, WINDOW, SINKS, LAYERS = 2, 32, 4, 8, 3, 2
D, BLOCKS = N * H, 5  # the ring is full after two blocks, and written anew twice
EPS = 1e-6
MakeRing = Callable[[Sink], Any]


def bf16(sink: Sink) -> Ring:
    return Bf16Ring(sink, WINDOW, FastAttention())


def fp8(sink: Sink) -> Ring:
    return Fp8Ring(sink, WINDOW, Workspace(sink, WINDOW), FastAttention())


def int8(sink: Sink) -> Ring:
    return Ring8(sink, WINDOW)


def e4m3(sink: Sink) -> Ring:
    return E4m3Ring(sink, WINDOW, None)


# Distance from exact attention; one token too many or too few is further away than any of them.
RINGS = [
    pytest.param(bf16, 1e-6, id="plain"),
    pytest.param(fp8, 0.06, id="8 bits"),
    pytest.param(int8, 0.06, id="8-bit attention"),
    pytest.param(e4m3, 0.08, id="attention in e4m3"),
]
MAKERS = [pytest.param(ring.values[0], id=ring.id) for ring in RINGS]


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def turn(seed: int, tokens: int) -> Rotation:
    angle = draw(seed, tokens, H // 2)
    return angle.cos(), angle.sin()


def make_sink(seed: int = 1) -> Sink:
    k, v = ([draw(seed + 10 * layer + part, 1, N, SINKS, H) for layer in range(LAYERS)] for part in (0, 5))
    return Sink(k, v, 1)


def block(index: int) -> Projected:
    return draw(100 + index, L, 3 * D), (draw(7, D), draw(8, D), EPS), turn(200 + index, L)


def where(index: int) -> tuple[Tensor, int]:
    return torch.tensor([index * L % WINDOW], dtype=torch.int32), min((index + 1) * L, WINDOW)


def heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (N, H)).transpose(0, 1)


def exact(sink: Sink, rotation: Rotation, layer: int, index: int) -> Tensor:
    """Attention of a block to the rotated sinks and to the blocks in the window, its own included."""
    keys, values = [rotate_rows(sink.k[layer][0], *rotation)], [sink.v[layer][0]]
    for past in range(max(0, index - WINDOW // L + 1), index + 1):
        qkv, (wq, wk, eps), angles = block(past)
        q, k, v = qkv.chunk(3, dim=-1)
        keys.append(rotate_rows(heads(rms_rows(k, wk, eps)), *angles))
        values.append(heads(v))
        query = rotate_rows(heads(rms_rows(q, wq, eps)), *angles)
    out = F.scaled_dot_product_attention(query, torch.cat(keys, 1), torch.cat(values, 1))
    return out.transpose(0, 1).flatten(1)


def far(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(("make", "most"), RINGS)
def test_a_block_sees_the_sinks_and_the_window_alone(make: MakeRing, most: float) -> None:
    sink = make_sink()
    ring = make(sink)
    for index in range(BLOCKS):
        rotation = turn(300 + index, SINKS)
        ring.place(sink, rotation, SINKS)
        for layer in range(LAYERS):
            got = ring.attend(layer, where(index), block(index))
            assert got.shape == (L, D)
            assert far(got, exact(sink, rotation, layer, index)) < most


@pytest.mark.parametrize(("make", "most"), RINGS)
def test_only_the_first_tokens_move_when_only_they_are_placed(make: MakeRing, most: float) -> None:
    sink, ring = make_sink(), make(make_sink())
    whole, moved = turn(1, SINKS), turn(2, SINKS)
    ring.place(sink, whole, SINKS)
    ring.place(sink, moved, 1)
    mixed = tuple(torch.cat((new[:1], old[1:])) for new, old in zip(moved, whole, strict=True))
    assert far(ring.attend(1, where(0), block(0)), exact(sink, (mixed[0], mixed[1]), 1, 0)) < most


@pytest.mark.parametrize(("make", "most"), RINGS)
def test_a_new_anchor_replaces_the_sinks_and_leaves_the_window(make: MakeRing, most: float) -> None:
    first, second = make_sink(1), make_sink(2)
    ring, rotation = make(first), turn(1, SINKS)
    ring.place(first, rotation, SINKS)
    ring.attend(0, where(0), block(0))
    ring.set_sink(second)
    ring.place(second, rotation, SINKS)
    assert far(ring.attend(0, where(1), block(1)), exact(second, rotation, 0, 1)) < most


@pytest.mark.parametrize("make", MAKERS)
def test_a_snapshot_goes_on_bit_for_bit_in_another_ring(make: MakeRing) -> None:
    sink, rotation = make_sink(), turn(1, SINKS)
    whole, resumed = make(sink), make(sink)
    for ring in (whole, resumed):
        ring.place(sink, rotation, SINKS)
    for index in range(3):
        whole.attend(0, where(index), block(index))
    resumed.load({name: t.clone() for name, t in whole.tensors().items()})
    for index in (3, 4):
        assert torch.equal(resumed.attend(0, where(index), block(index)), whole.attend(0, where(index), block(index)))


@pytest.mark.parametrize("make", MAKERS)
def test_the_next_stream_finds_nothing_of_the_last_one(make: MakeRing) -> None:
    sink, rotation = make_sink(2), turn(1, SINKS)
    used, fresh = make(make_sink(1)), make(sink)
    for index in range(3):
        used.attend(0, where(index), block(9 + index))
    used.begin(sink)
    for ring in (used, fresh):
        ring.place(sink, rotation, SINKS)
    for index in range(3):
        assert torch.equal(used.attend(0, where(index), block(index)), fresh.attend(0, where(index), block(index)))


def test_a_block_reads_its_own_keys_and_values_unrounded_from_an_8_bit_ring() -> None:
    sink, ring, rotation = make_sink(), fp8(make_sink()), turn(1, SINKS)
    ring.place(sink, rotation, SINKS)
    assert far(ring.attend(0, where(0), block(0)), exact(sink, rotation, 0, 0)) < 1e-6
    assert far(ring.attend(0, where(1), block(1)), exact(sink, rotation, 0, 1)) > 1e-4, "earlier ones are rounded"


@pytest.mark.parametrize("size", [1.0, 300.0], ids=["small values", "large values"])
def test_values_share_a_power_of_two_with_headroom_over_the_sinks(size: float) -> None:
    sink = make_sink()
    sink = Sink(sink.k, [size * v for v in sink.v], 1)
    ring = Ring8(sink, WINDOW)
    for scale, v in zip(ring.v_scale.flatten().tolist(), sink.v, strict=True):
        largest = float(v.abs().max())
        assert torch.tensor(scale).log2().frac() == 0
        assert 8 * largest <= 448 * scale < 16 * largest
