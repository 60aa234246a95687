"""Fused operations refuse, on a CPU too, what a kernel would read wrongly."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from liveavatar.fast import ops
from liveavatar.fast.reference import FP8, KeyValues8, KeyValuesE4m3, NormSpec, Slots

L, N, H, M = 6, 3, 32, 12
D = N * H
BF16 = torch.bfloat16
SPEC = NormSpec(torch.ones(1, D), torch.zeros(1, D), 1e-6, False, BF16)
NORMS = (torch.ones(D, dtype=BF16), torch.ones(D, dtype=BF16), 1e-6)
TURN = (torch.ones(L, H // 2), torch.zeros(L, H // 2))
START = torch.zeros(1, dtype=torch.int32)


def rows(*shape: int, dtype: torch.dtype = BF16) -> Tensor:
    return torch.zeros(*shape, dtype=dtype)


def columns(t: Tensor) -> Tensor:
    """The same values, the last two dimensions the other way round in memory."""
    return t.mT.contiguous().mT


def pixels(C: int = 8, T: int = 2, H: int = 3, W: int = 4) -> Tensor:
    return rows(T, H, W, C).permute(3, 0, 1, 2)


def slots(k: Tensor | None = None, v: Tensor | None = None, start: Tensor = START) -> Slots:
    return Slots(rows(N, M, H) if k is None else k, rows(N, M, H) if v is None else v, start)


def add_norm(**changes: Tensor) -> None:
    spec = replace(SPEC, **{name: changes.pop(name) for name in ("mul", "add") if name in changes})
    branches = [(changes[y], changes.get("gate")) for y in ("y", "y2") if y in changes]
    ops.add_norm(changes.get("x", rows(L, D)), branches, spec, BF16)


def write(
    qkv: Tensor | None = None, turn: tuple[Tensor, Tensor] = TURN, norm: Tensor | None = None, to: Slots | None = None
) -> None:
    weights = NORMS if norm is None else (norm, *NORMS[1:])
    ops.rms_rope_write(rows(L, 3 * D) if qkv is None else qkv, weights, turn, to or slots())


def keep(source: Tensor | None = None, values: Tensor | None = None, scale: Tensor | None = None) -> None:
    values = rows(N, M, H, dtype=FP8) if values is None else values
    scale = torch.zeros(N, M) if scale is None else scale
    ops.quantise_slots(rows(N, M, H) if source is None else source, values, scale, (START, L))


def held8(**changes: Tensor) -> KeyValues8:
    plain = KeyValues8(rows(N, M, H, dtype=torch.int8), torch.zeros(N, M), rows(N, H, M, dtype=FP8), torch.ones(1))
    return replace(plain, **changes)


def write8(start: Tensor = START, **changes: Tensor) -> None:
    ops.rms_rope_write8(rows(L, 3 * D), NORMS, TURN, held8(**changes), start)


def attend8(scale: Tensor | None = None, **changes: Tensor) -> None:
    queries = (rows(L, N, H, dtype=torch.int8), torch.ones(N, L) if scale is None else scale)
    ops.attend8(queries, held8(**changes), BF16)


def held_e4m3(**changes: Tensor) -> KeyValuesE4m3:
    return replace(KeyValuesE4m3(rows(N, M, H, dtype=FP8), rows(N, M, H, dtype=FP8), torch.ones(N)), **changes)


def write_e4m3(start: Tensor = START, **changes: Tensor) -> None:
    ops.rms_rope_write(rows(L, 3 * D), NORMS, TURN, held_e4m3(**changes).slots(start))


def attend_e4m3(q: Tensor | None = None, **changes: Tensor) -> None:
    ops.attend_e4m3(rows(L, N, H, dtype=FP8) if q is None else q, held_e4m3(**changes), BF16, None)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda: add_norm(x=columns(rows(L, D))), id="tokens as a convolution leaves them"),
        pytest.param(lambda: add_norm(y=rows(L, 2 * D)[:, :D]), id="a branch that is half of a product"),
        pytest.param(lambda: add_norm(y=rows(L, D), gate=torch.ones(D, dtype=BF16)), id="gate in 16 bits"),
        pytest.param(lambda: add_norm(y=rows(L, D), y2=columns(rows(L, D))), id="a second branch as columns"),
        pytest.param(lambda: add_norm(mul=torch.ones(1, 2 * D)[:, ::2]), id="modulation with gaps"),
        pytest.param(lambda: add_norm(add=torch.ones(4, D)), id="modulations that rows do not share evenly"),
        pytest.param(lambda: ops.gelu_rows(columns(rows(L, D)), False), id="gelu of columns"),
        pytest.param(lambda: ops.quantise_rows(rows(L, 2 * D)[:, D:]), id="rows apart, quantised"),
        pytest.param(lambda: ops.rms_rows(columns(rows(L, D)), NORMS[0], 1e-6), id="norm of columns"),
        pytest.param(lambda: write(qkv=columns(rows(L, 3 * D))), id="queries as columns"),
        pytest.param(lambda: write(norm=rows(D, 2)[:, 0]), id="norm's weight with gaps"),
        pytest.param(lambda: write(turn=(TURN[0].double(), TURN[1])), id="angles in 64 bits"),
        pytest.param(lambda: write(turn=(TURN[0][:4], TURN[1][:4])), id="too few angles"),
        pytest.param(lambda: write(to=slots(k=columns(rows(N, M, H)))), id="keys as columns"),
        pytest.param(lambda: write(to=slots(v=rows(N, 2 * M, H)[:, :M])), id="values that lie unlike keys"),
        pytest.param(lambda: write(to=slots(start=START.long())), id="slot in 64 bits"),
        pytest.param(lambda: ops.rope_copy(columns(rows(N, L, H)), TURN, rows(N, L, H)), id="keys to turn as columns"),
        pytest.param(lambda: ops.rope_copy(rows(N, L, H), TURN, columns(rows(N, L, H))), id="turned into columns"),
        pytest.param(lambda: ops.rms_silu(rows(8, 2, 3, 4), None, rows(8), rows(8, 2, 3, 4)), id="channels outermost"),
        pytest.param(lambda: ops.rms_silu(pixels(8), None, rows(8), pixels(4)), id="fewer channels than are normed"),
        pytest.param(lambda: ops.rms_silu(pixels(), rows(16)[::2], rows(8), pixels()), id="bias with gaps"),
        pytest.param(lambda: ops.add_bias(pixels(), rows(4)), id="bias of other channels"),
        pytest.param(lambda: ops.add_bias(pixels(), rows(8), rows(8, 2, 3, 4)), id="added with channels outermost"),
        pytest.param(lambda: ops.enlarge(pixels(), None, pixels(4, 2, 6, 8)), id="frames that find no room"),
        pytest.param(lambda: ops.enlarge(pixels(), None, rows(8, 2, 6, 8)), id="enlarged to channels outermost"),
        pytest.param(lambda: keep(source=columns(rows(N, M, H))), id="columns into an 8-bit ring"),
        pytest.param(lambda: keep(scale=rows(N, M)), id="scales in 16 bits"),
        pytest.param(lambda: keep(values=rows(N, M, 48, dtype=FP8)), id="heads that are no power of two"),
        pytest.param(lambda: write8(k=rows(N, M, H, dtype=FP8)), id="keys in e4m3"),
        pytest.param(lambda: write8(v=rows(N, M, H, dtype=FP8).mT), id="values with channels innermost"),
        pytest.param(lambda: write8(start=START.long()), id="slot in 64 bits, in 8 bits"),
        pytest.param(lambda: attend8(scale=torch.ones(L, N)), id="scales of queries token by token"),
        pytest.param(lambda: attend8(k_scale=torch.ones(N, M + 1)), id="more scales than keys"),
        pytest.param(lambda: attend8(v_scale=torch.ones(N)), id="a range of values for every head"),
        pytest.param(lambda: write_e4m3(k=rows(N, M, H)), id="keys in 16 bits, in e4m3"),
        pytest.param(lambda: write_e4m3(v=rows(N, 2 * M, H, dtype=FP8)[:, :M]), id="e4m3 values that lie unlike keys"),
        pytest.param(lambda: write_e4m3(v_scale=torch.ones(1)), id="one range of values for all heads"),
        pytest.param(lambda: write_e4m3(start=START.long()), id="slot in 64 bits, in e4m3"),
        pytest.param(lambda: attend_e4m3(q=rows(L, N, H)), id="queries in 16 bits"),
        pytest.param(lambda: attend_e4m3(q=rows(L, N, 2 * H, dtype=FP8)), id="queries of wider heads"),
        pytest.param(
            lambda: ops.rope_copy(rows(N, L, H), TURN, held_e4m3().k), id="more room than keys that are copied"
        ),
    ],
)
def test_a_layout_that_kernels_cannot_read_is_refused(wrong: Callable[[], None]) -> None:
    with pytest.raises(AssertionError):
        wrong()


def test_what_kernels_can_read_passes() -> None:
    ops.rms_silu(pixels(), rows(8), rows(8), pixels(T=4)[:, 2:])
    ops.add_bias(pixels(), rows(8), pixels())
    ops.enlarge(pixels(), rows(8), pixels(4, 5, 6, 8)[:, 1:])
    add_norm(y=rows(L, D), y2=rows(L, D), gate=torch.ones(D), mul=torch.ones(3, D), add=torch.zeros(3, D))
    ops.rms_rows(rows(L, 3 * D)[:, D : 2 * D], NORMS[0], 1e-6)
    write(to=slots(k=rows(N, 2 * M, H)[:, M:], v=rows(N, 2 * M, H)[:, M:]))
    ops.rope_copy(rows(N, L, H), TURN, rows(N, M, H)[:, :L])
    keep(source=rows(M, N, H).transpose(0, 1), values=rows(N, 2 * M, H, dtype=FP8)[:, :M])
    write8(v=rows(N, H, 2 * M, dtype=FP8)[:, :, M:])
    write_e4m3(k=rows(N, 2 * M, H, dtype=FP8)[:, M:], v=rows(N, 2 * M, H, dtype=FP8)[:, M:])
    attend_e4m3()
    attend8(k=rows(N, 2 * M, H, dtype=torch.int8)[:, :M], k_scale=torch.ones(N, 2 * M)[:, M:])


def test_attention_in_8_bits_is_not_there_where_it_would_be_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert "need a GPU" in str(ops.has_attention8(cpu))
    monkeypatch.setattr(ops, "has_fp8", lambda device: None)
    assert "without them it would be slower" in str(ops.has_attention8(cpu))
    monkeypatch.setattr(ops, "backend", lambda device: torch)
    assert ops.has_attention8(cpu) is None
