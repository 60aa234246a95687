"""Kernels that write what FlashAttention-3 reads in e4m3 equal their references."""

from types import ModuleType

import pytest
import torch
from torch import Tensor

from liveavatar.fast import reference
from liveavatar.fast.reference import FP8, KeyValuesE4m3
from tests.fast.cases import BF16, draw, off, on_interpreter
from tests.fast.interpreter import interpret, needs_triton


def held_e4m3(N: int, M: int, H: int, device: torch.device) -> KeyValuesE4m3:
    k, v = (torch.zeros(N, M, H, dtype=FP8, device=device) for _ in range(2))
    return KeyValuesE4m3(k, v, 2.0 ** -torch.arange(3, 3 + N, device=device).float())


def close_e4m3(got: Tensor, wanted: Tensor) -> None:
    """e4m3 of the same values: one code apart at most, and rarely."""
    a, b = got.float(), wanted.float()
    assert off(a, b, 0.02) < 0.1
    assert off(a, b, 0.15) == 0 or (on_interpreter(a) and off(a, b, 0.15) < 0.05)


def rms_rope_write_e4m3(module: ModuleType, device: torch.device) -> None:
    L, N, H, M = 6, 3, 32, 24
    qkv = draw(L, 3 * N * H, device=device, dtype=BF16)
    qkv[0, 2 * N * H] = 100  # beyond the range of values
    norms = (draw(N * H, device=device, dtype=BF16, seed=1), draw(N * H, device=device, dtype=BF16, seed=2), 1e-6)
    angle = draw(L, H // 2, device=device, seed=3)
    held = {m: held_e4m3(N, M + 4, H, device) for m in (module, reference)}
    for first in (0, 12, 18):
        start = torch.tensor([first], dtype=torch.int32, device=device)
        queries = {  # a ring after sinks
            m: m.rms_rope_write_e4m3(qkv, norms, (angle.cos(), angle.sin()), whole.cut(4, 4 + M), start)
            for m, whole in held.items()
        }
        assert queries[module].shape == (L, N, H)
        close_e4m3(queries[module], queries[reference])
        for name in "kv":
            close_e4m3(getattr(held[module], name), getattr(held[reference], name))
    for whole in held.values():
        assert whole.v[0, 4, 0] == 448
        assert not whole.k[:, :4].float().any()
        assert not whole.v[:, 10:16].float().any()


def rope_copy_e4m3(module: ModuleType, device: torch.device) -> None:
    N, L, H = 3, 5, 32
    source, angle = draw(N, L, H, device=device, dtype=BF16), draw(L, H // 2, device=device, seed=1)
    held = {m: held_e4m3(N, 9, H, device) for m in (module, reference)}
    for m, whole in held.items():
        m.rope_copy_e4m3(source, (angle.cos(), angle.sin()), whole.cut(0, L))
        assert not whole.k[:, L:].float().any()
    close_e4m3(held[module].k, held[reference].k)


CASES = [
    pytest.param(rms_rope_write_e4m3, id="rms, rotate, write in e4m3"),
    pytest.param(rope_copy_e4m3, id="rotated copy in e4m3"),
]


@needs_triton
def test_interpreted_kernels_equal_their_references() -> None:
    assert interpret(__name__) == [case.id for case in CASES]
