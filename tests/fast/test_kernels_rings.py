"""Kernels that normalise and rotate queries and keys and put them into rings equal their references."""

from types import ModuleType

import pytest
import torch
from torch import Tensor

from liveavatar.fast import reference
from liveavatar.fast.reference import FP8, KeyValuesE4m3, Slots
from tests.fast.cases import BF16, Case, close, draw, off, on_interpreter, projected
from tests.fast.interpreter import interpret, needs_interpreter


def rms(module: ModuleType, device: torch.device) -> None:
    wide = draw(5, 3 * 96, device=device, dtype=BF16)
    weight = draw(96, device=device, dtype=BF16, seed=1)
    for part in wide.chunk(3, dim=-1):  # rows that do not follow on one another
        close(module.rms_rows(part, weight, 1e-6), reference.rms_rows(part, weight, 1e-6), steps=4)


def rms_rope_write(module: ModuleType, device: torch.device) -> None:
    L, N, H, M = 6, 3, 32, 24
    qkv, norms, rotation = projected(L, N, H, device)
    buffers = {m: [torch.zeros(N, M + 4, H, dtype=BF16, device=device) for _ in "kv"] for m in (module, reference)}
    queries = {}
    for start in (0, 12, 18):
        for m, (k, v) in buffers.items():
            slots = Slots(k[:, 4:], v[:, 4:], torch.tensor([start], dtype=torch.int32, device=device))
            queries[m] = m.rms_rope_write(qkv, norms, rotation, slots)
        close(queries[module], queries[reference], steps=4)
        for got, wanted in zip(buffers[module], buffers[reference], strict=True):
            close(got, wanted, steps=4)
            assert not got[:, :4].any()


def rope_copy(module: ModuleType, device: torch.device) -> None:
    N, L, H = 3, 5, 32
    source, angle = draw(N, L, H, device=device, dtype=BF16), draw(L, H // 2, device=device, seed=1)
    got, wanted = (torch.zeros(N, 9, H, dtype=BF16, device=device) for _ in range(2))
    module.rope_copy(source, (angle.cos(), angle.sin()), got[:, :L])
    reference.rope_copy(source, (angle.cos(), angle.sin()), wanted[:, :L])
    close(got, wanted, steps=4)


def eight_bit_slots(module: ModuleType, device: torch.device) -> None:
    N, L, M, H = 3, 4, 12, 32
    source = draw(N, M + 2, H, device=device, dtype=BF16)[:, 2:]  # a ring after sinks
    stores = {}
    for m in (module, reference):
        values = torch.zeros(N, M, H, dtype=reference.FP8, device=device)
        scale = torch.zeros(N, M, device=device)
        m.quantise_slots(source, values, scale, (torch.tensor([5], dtype=torch.int32, device=device), L))
        target = torch.ones(N, M, H, dtype=BF16, device=device)
        # The next block, of three slots, is kept unrounded: what is stored there is not asked for.
        m.dequantise_slots(values, scale, target, (torch.tensor([9], dtype=torch.int32, device=device), M - 9))
        stores[m] = target
        assert not target[:, :5].any()
        assert torch.equal(target[:, 9:], torch.ones_like(target[:, 9:]))
        lost = off(target[:, 5:9].float(), source[:, 5:9].float(), 0.08)
        assert lost == 0 or (m is module and on_interpreter(source) and lost < 0.05)
    assert off(stores[module].float(), stores[reference].float(), 0.08) < 0.03


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
    qkv, norms, rotation = projected(L, N, H, device)
    qkv[0, 2 * N * H] = 100  # beyond the range of values
    held = {m: held_e4m3(N, M + 4, H, device) for m in (module, reference)}
    for first in (0, 12, 18):
        start = torch.tensor([first], dtype=torch.int32, device=device)
        queries = {  # a ring after sinks
            m: m.rms_rope_write(qkv, norms, rotation, whole.cut(4, 4 + M).slots(start)) for m, whole in held.items()
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
        m.rope_copy(source, (angle.cos(), angle.sin()), whole.k[:, :L])
        assert not whole.k[:, L:].float().any()
    close_e4m3(held[module].k, held[reference].k)


CASES = [
    pytest.param(rms, id="rms"),
    pytest.param(rms_rope_write, id="rms, rotate, write to the ring"),
    pytest.param(rope_copy, id="rotated copy"),
    pytest.param(eight_bit_slots, id="8-bit ring"),
    pytest.param(rms_rope_write_e4m3, id="rms, rotate, write in e4m3"),
    pytest.param(rope_copy_e4m3, id="rotated copy in e4m3"),
]


@needs_interpreter
@pytest.mark.parametrize("case", CASES)
def test_interpreted_kernels_equal_their_references(case: Case) -> None:
    interpret(case)
