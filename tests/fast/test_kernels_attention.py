"""Kernels of attention in 8 bits equal their references."""

from types import ModuleType

import pytest
import torch
from torch import Tensor

from liveavatar.fast import reference
from liveavatar.fast.reference import KeyValues8
from tests.fast.cases import BF16, Case, draw, held8, off, on_interpreter, projected
from tests.fast.interpreter import interpret, needs_interpreter


def close_heads(got: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> None:
    """int8 [N, M, H] and scales [N, M], equal within a step of int8 and what came before in bf16."""
    (a, a_scale), (b, b_scale) = got, wanted
    before = 0.03 if on_interpreter(a) else 0.01
    torch.testing.assert_close(a_scale, b_scale, rtol=before, atol=0)
    a, b = (codes * scale[..., None] for codes, scale in (got, wanted))
    assert ((a - b).abs() <= before * b.abs() + 1.01 * b_scale[..., None]).all()
    assert (a - b).norm() < 2 * before * b.norm()


def close_values(got: KeyValues8, wanted: KeyValues8) -> None:
    a, b = got.v.float(), wanted.v.float()
    assert torch.equal(a, b) or (on_interpreter(a) and off(a, b, 0.02) < 0.05)


def rms_rope_write8(module: ModuleType, device: torch.device) -> None:
    L, N, H, M = 70, 3, 32, 240
    qkv, norms, rotation = projected(L, N, H, device)
    qkv[0, 2 * N * H] = 100  # beyond the range of values
    held = {m: held8(N, M + 6, H, device) for m in (module, reference)}
    queries = {}
    for first, rows in ((0, L), (70, 5), (133, 5)):  # 5: the interpreter takes 40 ms a row
        start = torch.tensor([first], dtype=torch.int32, device=device)
        angles = (rotation[0][:rows], rotation[1][:rows])
        for m, whole in held.items():  # a ring after sinks
            queries[m] = m.rms_rope_write8(qkv[:rows], norms, angles, whole.cut(6, 6 + M), start)
        (q, q_scale), (wanted, wanted_scale) = queries[module], queries[reference]
        close_heads((q.transpose(0, 1), q_scale), (wanted.transpose(0, 1), wanted_scale))
        assert q.abs().max() == 127
        got, fine = held[module], held[reference]
        close_heads((got.k, got.k_scale), (fine.k, fine.k_scale))
        close_values(got, fine)
    for whole in held.values():
        assert whole.v[0, 0, 6] == 448
        assert not whole.k[:, :6].any()
        assert not whole.v[:, :, :6].float().any()
        assert not whole.v[:, :, 81:139].float().any()
        assert not whole.v[:, :, 144:].float().any()


def rope_copy8(module: ModuleType, device: torch.device) -> None:
    N, L, H = 3, 5, 32
    source, angle = draw(N, L, H, device=device, dtype=BF16), draw(L, H // 2, device=device, seed=1)
    source[1, 2] = 0
    held = {m: held8(N, 9, H, device) for m in (module, reference)}
    for m, whole in held.items():
        m.rope_copy8(source, (angle.cos(), angle.sin()), whole.cut(0, L))
        assert not whole.k[:, L:].any()
        assert not whole.k[1, 2].any()
        assert whole.k_scale[:, :L].gt(0).all()
    got, wanted = held[module], held[reference]
    close_heads((got.k, got.k_scale), (wanted.k, wanted.k_scale))


def attend8(module: ModuleType, device: torch.device) -> None:
    """Tiles that are whole and tiles that are not, of queries and of keys; as near to 32 bits as 8 bits can be."""
    for L, M, sharp in ((64, 128, 1.0), (130, 200, 1.0), (70, 60, 4.0)):
        N, H = 2, 32
        x = draw(L, 3 * N * H, device=device, dtype=BF16, seed=L)
        q = reference.quantise_heads(sharp * x[:, : N * H].unflatten(1, (N, H)))
        queries = (q[0], q[1].mT.contiguous())
        held = held8(N, M + 24, H, device)
        k, v = (draw(N, M, H, device=device, dtype=BF16, seed=seed) for seed in (1, 2))
        still = (torch.ones(M, H // 2, device=device), torch.zeros(M, H // 2, device=device))
        seen = held.cut(8, 8 + M)
        reference.rope_copy8(k, still, seen)
        reference.write_values8(v + 0.5, seen, torch.zeros(1, dtype=torch.int32, device=device))
        got, wanted = (m.attend8(queries, seen, BF16).float() for m in (module, reference))
        exact = torch.nn.functional.scaled_dot_product_attention(
            sharp * x[:, : N * H].unflatten(1, (N, H)).transpose(0, 1).float(), k.float(), v.float() + 0.5
        )
        exact = exact.transpose(0, 1).flatten(1)
        assert got.shape == (L, N * H)
        assert (wanted - exact).norm() < 0.03 * exact.norm()
        assert (got - wanted).norm() < (0.03 if on_interpreter(got) else 0.015) * wanted.norm()


def attend_text(module: ModuleType, device: torch.device) -> None:
    """A key that stands for others, and keys that do not count; tiles that are whole and tiles that are not."""
    dtype = torch.float32 if device.type == "cpu" else BF16  # the interpreter multiplies the bits of bf16
    for L, M, used in ((128, 64, 64), (130, 200, 5), (70, 130, 65)):
        N, H = 2, 32
        q = draw(L, N, H, device=device, dtype=dtype, seed=L)
        k, v = (draw(N, M, H, device=device, dtype=dtype, seed=seed) for seed in (1, 2))
        k[:, used:], v[:, used:] = k[:, used - 1, None], v[:, used - 1, None]
        counts = torch.tensor([used, M - used + 1], dtype=torch.int32, device=device)
        got, wanted = (m.attend_text(q, k, v, counts).float() for m in (module, reference))
        exact = torch.nn.functional.scaled_dot_product_attention(q.transpose(0, 1).float(), k.float(), v.float())
        exact = exact.transpose(0, 1).flatten(1)
        assert got.shape == (L, N * H)
        for one in (got, wanted):
            assert (one - exact).norm() < 0.01 * exact.norm()


CASES = [
    pytest.param(rms_rope_write8, id="rms, rotate, write in 8 bits"),
    pytest.param(rope_copy8, id="rotated copy in 8 bits"),
    pytest.param(attend8, id="attention in 8 bits"),
    pytest.param(attend_text, id="attention to text"),
]


@needs_interpreter
@pytest.mark.parametrize("case", CASES)
def test_interpreted_kernels_equal_their_references(case: Case) -> None:
    interpret(case)
