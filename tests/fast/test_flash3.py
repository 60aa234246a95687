"""FlashAttention-3 behind the arguments of its package; a function in its place computes in plain torch."""

import torch
from torch import Tensor

from liveavatar.fast import reference
from liveavatar.fast.flash3 import FlashAttention3, flash3
from liveavatar.fast.reference import KeyValuesE4m3, to_e4m3

N, L, M, H = 2, 5, 40, 64


def exact(q: Tensor, k: Tensor, v: Tensor, v_descale: Tensor | None = None) -> Tensor:
    """Softmax attention of [B, L, N, H], values times a scale [B, N], as bf16."""
    q, k, v = (t.transpose(1, 2).float() for t in (q, k, v))
    if v_descale is not None:
        v = v * v_descale[..., None, None]
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).contiguous().bfloat16()


def test_heads_and_tokens_change_places() -> None:
    q, k, v = (torch.randn(1, N, length, H).bfloat16() for length in (L, M, M))
    wanted = torch.nn.functional.scaled_dot_product_attention(*(t.float() for t in (q, k, v))).transpose(1, 2)
    torch.testing.assert_close(FlashAttention3(exact)(q, k, v).float(), wanted, atol=0.01, rtol=0.01)


def test_e4m3_gives_values_their_scale() -> None:
    q, k, v = (torch.randn(N, length, H) for length in (L, M, M))
    scale = torch.tensor([0.25, 4.0])
    seen = KeyValuesE4m3(to_e4m3(k), to_e4m3(v / scale[:, None, None]), scale)
    queries = to_e4m3(q).transpose(0, 1).contiguous()
    got = FlashAttention3(exact).attend_e4m3(queries, seen)
    assert got.shape == (L, N * H)
    wanted = reference.attend_e4m3(queries, seen, torch.float32)
    assert (got.float() - wanted).norm() < 0.03 * wanted.norm()


def test_a_cpu_has_none() -> None:
    assert flash3(torch.device("cpu")) is None
