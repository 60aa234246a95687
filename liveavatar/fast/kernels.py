"""The transformer's fused kernels in Triton, and with them `kernels_decoder`'s; `reference` says what each computes,
`ops` how its tensors must lie.

One program handles one row (a token), or a tile of short rows. They are bound by memory, so the aim is one read
and one write of everything. Importing this module needs Triton.
"""

# A kernel takes every pointer, stride and compile-time number as an argument, and Triton types them itself. It adds
# tuples, but does not unpack them.
# ruff: noqa: PLR0913, RUF005
# mypy: disallow-untyped-defs=False, check-untyped-defs=False, disable-error-code="assignment,var-annotated"

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from liveavatar.fast.kernels_decoder import add_bias, enlarge, rms_silu
from liveavatar.fast.reference import AMAX_FLOOR, FP8, FP8_MAX, Block, Branch, NormSpec, Quantised, Rows, Slots

__all__ = [
    "add_bias", "add_norm", "dequantise_slots", "enlarge", "gelu_rows", "quantise_rows", "quantise_slots",
    "rms_rope_write", "rms_rows", "rms_silu", "rope_copy",
]  # fmt: skip

_WARPS = 8
_TILE = 4096  # elements of one program that handles several short rows
_EACH = 4  # elements that a thread reads at once: 16 bytes of fp32; alike for all dtypes, so that none change hands
_LONG = 8192  # elements of a row that more threads share


def _width(n: int) -> int:
    return triton.next_power_of_2(n)


def _cut(n: int) -> dict[str, int]:
    """How the elements of a row are cut: chunks of a power of two, as a whole row seldom is one."""
    warps = _WARPS if n < _LONG else 2 * _WARPS
    chunk = min(_width(n), 32 * warps * _EACH)
    return {"CHUNK": chunk, "CHUNKS": triton.cdiv(n, chunk), "num_warps": warps}


@triton.jit
def _store_row(h, row, at, out, scale, D: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
               QUANT: tl.constexpr, FLOOR: tl.constexpr):  # fmt: skip
    if QUANT:
        largest = tl.abs(h[0])
        for i in tl.static_range(1, CHUNKS):
            largest = tl.maximum(largest, tl.abs(h[i]))
        amax = tl.maximum(tl.max(largest, axis=0), FLOOR)
        tl.store(scale + row, amax / 448.0)
        turns = 448.0 / amax
    for i in tl.static_range(CHUNKS):
        v = h[i] * turns if QUANT else h[i]
        there = i * CHUNK + at
        tl.store(out + row * D + there, v.to(out.dtype.element_ty), mask=there < D)


@triton.jit
def _add_norm(
    x, y, gate, y2, gate2, mul, add, x_out, out, scale, model, rows_a_run, eps,
    D: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, BRANCHES: tl.constexpr, HAS_GATE: tl.constexpr,
    HAS_GATE2: tl.constexpr, KEEP: tl.constexpr, ROUND: tl.constexpr, QUANT: tl.constexpr, FLOOR: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, CHUNK)
    # Everything is asked for before anything is stored: a load does not pass a store.
    sums = ()
    for i in tl.static_range(CHUNKS):
        there = i * CHUNK + at
        mask = there < D
        r = tl.load(x + row * D + there, mask=mask, other=0.0).to(tl.float32)
        if BRANCHES > 0:
            b = tl.load(y + row * D + there, mask=mask, other=0.0).to(tl.float32)
            if HAS_GATE:
                b = b * tl.load(gate + there, mask=mask, other=0.0)
            r = r + b
        if BRANCHES > 1:
            b = tl.load(y2 + row * D + there, mask=mask, other=0.0).to(tl.float32)
            if HAS_GATE2:
                b = b * tl.load(gate2 + there, mask=mask, other=0.0)
            r = r + b
        sums = sums + (r,)
    seen = ()
    total = tl.zeros((CHUNK,), tl.float32)
    for i in tl.static_range(CHUNKS):
        there = i * CHUNK + at
        kept = sums[i].to(x_out.dtype.element_ty)
        if KEEP:
            tl.store(x_out + row * D + there, kept, mask=there < D)
        r = kept.to(tl.float32)
        if ROUND:
            r = r.to(model.dtype.element_ty).to(tl.float32)
        seen = seen + (r,)
        total += r
    mean = tl.sum(total, axis=0) / D
    total = tl.zeros((CHUNK,), tl.float32)
    for i in tl.static_range(CHUNKS):
        c = tl.where(i * CHUNK + at < D, seen[i] - mean, 0.0)
        total += c * c
    inverse = tl.rsqrt(tl.sum(total, axis=0) / D + eps)
    run = (row // rows_a_run) * D
    h = ()
    for i in tl.static_range(CHUNKS):
        there = i * CHUNK + at
        m = tl.load(mul + run + there, mask=there < D, other=0.0)
        a = tl.load(add + run + there, mask=there < D, other=0.0)
        h = h + ((seen[i] - mean) * inverse * m + a,)
    _store_row(h, row, at, out, scale, D, CHUNK, CHUNKS, QUANT, FLOOR)


def _outputs(rows: int, width: int, like: Tensor, quantise: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    out = torch.empty(rows, width, dtype=FP8 if quantise else dtype, device=like.device)
    return out, torch.empty(rows, 1, dtype=torch.float32, device=like.device) if quantise else out


def add_norm(
    x_LD: Tensor, branches: Sequence[Branch], spec: NormSpec, out_dtype: torch.dtype, keep: bool = True
) -> tuple[Tensor, Rows]:
    """See `reference.add_norm`."""
    L, D = x_LD.shape
    write = keep and (len(branches) > 0 or x_LD.dtype != out_dtype)
    # What is not written still says by its dtype how the norm sees the sum.
    kept = torch.empty(L if write else 1, D, dtype=out_dtype, device=x_LD.device)
    out, scale = _outputs(L, D, x_LD, spec.quantise, spec.dtype)
    model = torch.empty(1, dtype=spec.dtype, device=x_LD.device)
    (y, gate), (y2, gate2) = (*branches, (x_LD, None), (x_LD, None))[:2]
    _add_norm[(L,)](
        x_LD, y, x_LD if gate is None else gate, y2, x_LD if gate2 is None else gate2,
        spec.mul, spec.add, kept, out, scale, model, L // spec.mul.shape[0], spec.eps,
        D=D, BRANCHES=len(branches), HAS_GATE=gate is not None, HAS_GATE2=gate2 is not None, KEEP=write,
        ROUND=spec.rounded, QUANT=spec.quantise, FLOOR=AMAX_FLOOR, **_cut(D),
    )  # fmt: skip
    return kept if write else x_LD, Quantised(out, scale) if spec.quantise else out


@triton.jit
def _rows(x, out, scale, D: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, GELU: tl.constexpr,
          QUANT: tl.constexpr, FLOOR: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, CHUNK)
    read = ()
    for i in tl.static_range(CHUNKS):
        there = i * CHUNK + at
        read = read + (tl.load(x + row * D + there, mask=there < D, other=0.0),)
    h = ()
    for i in tl.static_range(CHUNKS):
        r = read[i].to(tl.float32)
        if GELU:
            # x * (1 + tanh(v)) / 2 is x / (1 + exp(-2v)); u is -2v / ln 2, and as far from overflow as from mattering.
            u = r * (-2.302208198144325 - 0.1029432395800235 * r * r)
            r = r / (1.0 + tl.exp2(tl.minimum(u, 126.0)))
        h = h + (r,)
    _store_row(h, row, at, out, scale, D, CHUNK, CHUNKS, QUANT, FLOOR)


def gelu_rows(x_LD: Tensor, quantise: bool) -> Rows:
    """See `reference.gelu_rows`."""
    L, D = x_LD.shape
    out, scale = _outputs(L, D, x_LD, quantise, x_LD.dtype)
    _rows[(L,)](x_LD, out, scale, D=D, GELU=True, QUANT=quantise, FLOOR=AMAX_FLOOR, **_cut(D))
    return Quantised(out, scale) if quantise else out


def quantise_rows(x_LD: Tensor) -> Quantised:
    """See `reference.quantise_rows`."""
    L, D = x_LD.shape
    out, scale = _outputs(L, D, x_LD, True, FP8)
    _rows[(L,)](x_LD, out, scale, D=D, GELU=False, QUANT=True, FLOOR=AMAX_FLOOR, **_cut(D))
    return Quantised(out, scale)


@triton.jit
def _rms(x, x_stride, weight, eps, D: tl.constexpr, at, mask):
    row = tl.program_id(0).to(tl.int64)
    raw = tl.load(x + row * x_stride + at, mask=mask, other=0.0)
    r = raw.to(tl.float32)
    r = r * tl.rsqrt(tl.sum(r * r, axis=0) / D + eps)
    w = tl.load(weight + at, mask=mask, other=0.0).to(tl.float32)
    # Rounded before and after the weight, as the plain path rounds.
    return (r.to(raw.dtype).to(tl.float32) * w).to(raw.dtype)


@triton.jit
def _rms_rows(x, x_stride, weight, out, eps, D: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    mask = at < D
    tl.store(out + tl.program_id(0).to(tl.int64) * D + at, _rms(x, x_stride, weight, eps, D, at, mask), mask=mask)


def rms_rows(x_LD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """See `reference.rms_rows`."""
    L, D = x_LD.shape
    out = torch.empty(L, D, dtype=x_LD.dtype, device=x_LD.device)
    _rms_rows[(L,)](x_LD, x_LD.stride(0), weight_D, out, eps, D=D, BLOCK=_width(D), num_warps=_WARPS)
    return out


@triton.jit
def _turn(x, cos, sin, row, at, mask, BLOCK: tl.constexpr, P: tl.constexpr):
    even, odd = tl.split(tl.reshape(x.to(tl.float32), (BLOCK // 2, 2)))
    pair = tl.arange(0, BLOCK // 2)
    # Every head turns by the same angles.
    c = tl.load(cos + row * P + pair % P)
    s = tl.load(sin + row * P + pair % P)
    return tl.reshape(tl.join(even * c - odd * s, even * s + odd * c), (BLOCK,)).to(x.dtype)


@triton.jit
def _rms_rope_write(
    qkv, wq, wk, cos, sin, start, q_out, k_out, v_out, head_stride, slot_stride, eps,
    D: tl.constexpr, H: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    at = tl.arange(0, BLOCK)
    mask = at < D
    slot = tl.load(start).to(tl.int64) + row
    there = (at // H) * head_stride + slot * slot_stride + at % H
    if part == 0:
        q = _rms(qkv, 3 * D, wq, eps, D, at, mask)
        tl.store(q_out + row * D + at, _turn(q, cos, sin, row, at, mask, BLOCK, H // 2), mask=mask)
    elif part == 1:
        k = _rms(qkv + D, 3 * D, wk, eps, D, at, mask)
        tl.store(k_out + there, _turn(k, cos, sin, row, at, mask, BLOCK, H // 2), mask=mask)
    else:
        tl.store(v_out + there, tl.load(qkv + row * 3 * D + 2 * D + at, mask=mask, other=0.0), mask=mask)


def rms_rope_write(
    qkv_L3D: Tensor, norms: tuple[Tensor, Tensor, float], rotation: tuple[Tensor, Tensor], slots: Slots
) -> Tensor:
    """See `reference.rms_rope_write`."""
    L, D = qkv_L3D.shape[0], qkv_L3D.shape[1] // 3
    N, _, H = slots.k.shape
    q = torch.empty(L, N, H, dtype=qkv_L3D.dtype, device=qkv_L3D.device)
    _rms_rope_write[(L, 3)](
        qkv_L3D, norms[0], norms[1], *rotation, slots.start, q, slots.k, slots.v, slots.k.stride(0), slots.k.stride(1),
        norms[2], D=D, H=H, BLOCK=_width(D), num_warps=_WARPS,
    )  # fmt: skip
    return q


@triton.jit
def _rope_copy(source, cos, sin, target, s_head, s_row, t_head, t_row, N: tl.constexpr, H: tl.constexpr,
               BLOCK: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    mask = at < N * H
    x = tl.load(source + (at // H) * s_head + row * s_row + at % H, mask=mask, other=0.0)
    turned = _turn(x, cos, sin, row, at, mask, BLOCK, H // 2)
    tl.store(target + (at // H) * t_head + row * t_row + at % H, turned, mask=mask)


def rope_copy(source_NLH: Tensor, rotation: tuple[Tensor, Tensor], target_NLH: Tensor) -> None:
    """See `reference.rope_copy`."""
    N, L, H = source_NLH.shape
    _rope_copy[(L,)](
        source_NLH, *rotation, target_NLH, source_NLH.stride(0), source_NLH.stride(1), target_NLH.stride(0),
        target_NLH.stride(1), N=N, H=H, BLOCK=_width(N * H), num_warps=_WARPS,
    )  # fmt: skip


@triton.jit
def _quantise_slots(source, values, scale, start, s_head, s_row, v_head, v_row, c_head, N: tl.constexpr,
                    H: tl.constexpr, HEADS: tl.constexpr, FLOOR: tl.constexpr):  # fmt: skip
    slot = tl.load(start).to(tl.int64) + tl.program_id(0)
    head = tl.arange(0, HEADS)
    at = tl.arange(0, H)
    mask = (head < N)[:, None] & (at < H)[None, :]
    x = tl.load(source + head[:, None] * s_head + slot * s_row + at[None, :], mask=mask, other=0.0).to(tl.float32)
    s = tl.maximum(tl.max(tl.abs(x), axis=1), FLOOR) / 448.0
    tl.store(scale + head * c_head + slot, s, mask=head < N)
    x = tl.minimum(tl.maximum(x / s[:, None], -448.0), 448.0)
    tl.store(values + head[:, None] * v_head + slot * v_row + at[None, :], x.to(values.dtype.element_ty), mask=mask)


def quantise_slots(source_NMH: Tensor, values_NMH: Tensor, scale_NM: Tensor, block: Block) -> None:
    """See `reference.quantise_slots`."""
    N, _, H = source_NMH.shape
    _quantise_slots[(block[1],)](
        source_NMH, values_NMH, scale_NM, block[0], source_NMH.stride(0), source_NMH.stride(1), values_NMH.stride(0),
        values_NMH.stride(1), scale_NM.stride(0), N=N, H=H, HEADS=_width(N), FLOOR=AMAX_FLOOR, num_warps=_WARPS,
    )  # fmt: skip


@triton.jit
def _dequantise_slots(values, scale, start, target, v_head, v_row, c_head, t_head, t_row, num_rows, num_new,
                      H: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    head = tl.program_id(1).to(tl.int64)
    at = tl.arange(0, H)
    since = row - tl.load(start)
    old = (row < num_rows) & ((since < 0) | (since >= num_new))
    mask = old[:, None] & (at < H)[None, :]
    x = tl.load(values + head * v_head + row[:, None] * v_row + at[None, :], mask=mask, other=0.0).to(tl.float32)
    s = tl.load(scale + head * c_head + row, mask=old, other=0.0)
    x = (x * s[:, None]).to(target.dtype.element_ty)
    tl.store(target + head * t_head + row[:, None] * t_row + at[None, :], x, mask=mask)


def dequantise_slots(values_NMH: Tensor, scale_NM: Tensor, target_NMH: Tensor, block: Block) -> None:
    """See `reference.dequantise_slots`."""
    N, M, H = values_NMH.shape
    tile = max(1, _TILE // H)
    _dequantise_slots[(triton.cdiv(M, tile), N)](
        values_NMH, scale_NM, block[0], target_NMH, values_NMH.stride(0), values_NMH.stride(1), scale_NM.stride(0),
        target_NMH.stride(0), target_NMH.stride(1), M, block[1], H=H, ROWS=tile, num_warps=_WARPS,
    )  # fmt: skip


assert FP8_MAX == 448.0  # written out in the kernels, which see no Python globals
