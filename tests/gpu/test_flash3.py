"""FlashAttention-3 at the true size of a block: near to fp32, and the same bits each time, recorded too."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from liveavatar.fast import reference
from liveavatar.fast.attention import FastAttention
from liveavatar.fast.flash3 import FlashAttention3, flash3
from liveavatar.fast.reference import KeyValuesE4m3, to_e4m3

CUDA = torch.device("cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
L, M, N, H = 3168, 13978, 3, 128
ROOM = 1334  # slots behind the keys that are seen


@pytest.fixture(scope="module")
def kernel() -> FlashAttention3:
    found = flash3(CUDA)
    if found is None:
        pytest.skip("needs a Hopper GPU and fa3-fwd")
    return found


@pytest.fixture(scope="module")
def drawn() -> tuple[Tensor, Tensor, Tensor]:
    """Queries [1, N, L, H] that lie token by token, keys and values [1, N, M, H] in a longer ring."""
    generator = torch.Generator(CUDA).manual_seed(0)
    q = torch.randn(1, L, N, H, generator=generator, device=CUDA).bfloat16().transpose(1, 2)
    ring = torch.randn(2, 1, N, M + ROOM, H, generator=generator, device=CUDA).bfloat16()
    return q, ring[0, :, :, :M], ring[1, :, :, :M]


def same_bits_each_time(attend: Callable[[], Tensor]) -> Tensor:
    """Attend once, a few times more, and in a recorded graph."""
    once = attend()
    assert all(torch.equal(attend(), once) for _ in range(3))
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        recorded = attend()
    graph.replay()
    assert torch.equal(recorded, once)
    return once


def test_bf16(kernel: FlashAttention3, drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    got = same_bits_each_time(lambda: kernel(*drawn)).float()
    exact = F.scaled_dot_product_attention(*(t.float() for t in drawn)).transpose(1, 2)
    assert (got - exact).norm() < 0.004 * exact.norm()


def test_it_is_chosen_for_a_full_ring(kernel: FlashAttention3, drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, _ = drawn
    assert FastAttention().backend(tuple(q.shape), tuple(k.shape), q.dtype, CUDA) is kernel


def test_e4m3(kernel: FlashAttention3, drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v = drawn
    scale = 2.0 ** -torch.arange(2, 2 + N, device=CUDA).float()
    seen = KeyValuesE4m3(*(torch.zeros(N, M + ROOM, H, device=CUDA).to(reference.FP8) for _ in "kv"), scale).cut(0, M)
    seen.k.copy_(to_e4m3(k[0]))
    seen.v.copy_(reference.values_e4m3(v[0], seen.v_scale))
    queries = to_e4m3(q[0]).transpose(0, 1).contiguous()
    got = same_bits_each_time(lambda: kernel.attend_e4m3(queries, seen)).float()
    wanted = reference.attend_e4m3(queries, seen, torch.float32)
    exact = F.scaled_dot_product_attention(*(t.float() for t in drawn)).transpose(1, 2)[0].flatten(1)
    assert (got - wanted).norm() < 0.04 * wanted.norm()
    assert (got - exact).norm() < 0.08 * exact.norm()
