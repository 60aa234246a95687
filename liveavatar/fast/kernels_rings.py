"""Kernels that normalise and rotate queries and keys and put them into rings, in 16 or 8 bits; see `kernels`."""

# ruff: noqa: PLR0913
# mypy: disallow-untyped-defs=False, check-untyped-defs=False

import torch
import triton
import triton.language as tl
from torch import Tensor

from liveavatar.fast.reference import AMAX_FLOOR, FP8, FP8_MAX, Block, Slots

WARPS = 8
_TILE = 4096  # elements of one program that handles several short rows


def width(n: int) -> int:
    """Round up to a power of two with room for n elements."""
    return triton.next_power_of_2(n)


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
    """Normalise rows by their RMS."""
    L, D = x_LD.shape
    out = torch.empty(L, D, dtype=x_LD.dtype, device=x_LD.device)
    _rms_rows[(L,)](x_LD, x_LD.stride(0), weight_D, out, eps, D=D, BLOCK=width(D), num_warps=WARPS)
    return out


@triton.jit
def _rotate(x, cos, sin, row, at, mask, BLOCK: tl.constexpr, P: tl.constexpr):
    even, odd = tl.split(tl.reshape(x.to(tl.float32), (BLOCK // 2, 2)))
    pair = tl.arange(0, BLOCK // 2)
    # Every head turns by the same angles.
    c = tl.load(cos + row * P + pair % P)
    s = tl.load(sin + row * P + pair % P)
    return tl.reshape(tl.join(even * c - odd * s, even * s + odd * c), (BLOCK,)).to(x.dtype)


@triton.jit
def _store(x, target, mask, E4M3: tl.constexpr):
    if E4M3:
        x = tl.minimum(tl.maximum(x.to(tl.float32), -448.0), 448.0)
    tl.store(target, x.to(target.dtype.element_ty), mask=mask)


@triton.jit
def _rms_rope_write(
    qkv, wq, wk, cos, sin, start, q_out, k_out, v_out, v_scale, head_stride, slot_stride, eps,
    D: tl.constexpr, H: tl.constexpr, BLOCK: tl.constexpr, E4M3: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    at = tl.arange(0, BLOCK)
    mask = at < D
    slot = tl.load(start).to(tl.int64) + row
    there = (at // H) * head_stride + slot * slot_stride + at % H
    if part == 0:
        q = _rms(qkv, 3 * D, wq, eps, D, at, mask)
        _store(_rotate(q, cos, sin, row, at, mask, BLOCK, H // 2), q_out + row * D + at, mask, E4M3)
    elif part == 1:
        k = _rms(qkv + D, 3 * D, wk, eps, D, at, mask)
        _store(_rotate(k, cos, sin, row, at, mask, BLOCK, H // 2), k_out + there, mask, E4M3)
    else:
        v = tl.load(qkv + row * 3 * D + 2 * D + at, mask=mask, other=0.0)
        if E4M3:
            v = v.to(tl.float32) / tl.load(v_scale + at // H, mask=mask, other=1.0)
        _store(v, v_out + there, mask, E4M3)


def rms_rope_write(
    qkv_L3D: Tensor, norms: tuple[Tensor, Tensor, float], rotation: tuple[Tensor, Tensor], slots: Slots
) -> Tensor:
    """Normalise and rotate queries and keys, and write keys and values into their slots."""
    L, D = qkv_L3D.shape[0], qkv_L3D.shape[1] // 3
    N, _, H = slots.k.shape
    q = torch.empty(L, N, H, dtype=slots.k.dtype, device=qkv_L3D.device)
    _rms_rope_write[(L, 3)](
        qkv_L3D, norms[0], norms[1], *rotation, slots.start, q, slots.k, slots.v, slots.v_scale, slots.k.stride(0),
        slots.k.stride(1), norms[2], D=D, H=H, BLOCK=width(D), E4M3=slots.v_scale is not None, num_warps=WARPS,
    )  # fmt: skip
    return q


@triton.jit
def _rope_copy(source, cos, sin, target, s_head, s_row, t_head, t_row, N: tl.constexpr, H: tl.constexpr,
               BLOCK: tl.constexpr, E4M3: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    mask = at < N * H
    x = tl.load(source + (at // H) * s_head + row * s_row + at % H, mask=mask, other=0.0)
    rotated = _rotate(x, cos, sin, row, at, mask, BLOCK, H // 2)
    _store(rotated, target + (at // H) * t_head + row * t_row + at % H, mask, E4M3)


def rope_copy(source_NLH: Tensor, rotation: tuple[Tensor, Tensor], target_NLH: Tensor) -> None:
    """Copy rotated keys."""
    N, L, H = source_NLH.shape
    _rope_copy[(L,)](
        source_NLH, *rotation, target_NLH, source_NLH.stride(0), source_NLH.stride(1), target_NLH.stride(0),
        target_NLH.stride(1), N=N, H=H, BLOCK=width(N * H), E4M3=target_NLH.dtype == FP8, num_warps=WARPS,
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
    """Quantise a block's slots into an e4m3 ring."""
    N, _, H = source_NMH.shape
    _quantise_slots[(block[1],)](
        source_NMH, values_NMH, scale_NM, block[0], source_NMH.stride(0), source_NMH.stride(1), values_NMH.stride(0),
        values_NMH.stride(1), scale_NM.stride(0), N=N, H=H, HEADS=width(N), FLOOR=AMAX_FLOOR, num_warps=WARPS,
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
    """Convert an e4m3 ring back to the model's dtype."""
    N, M, H = values_NMH.shape
    tile = max(1, _TILE // H)
    _dequantise_slots[(triton.cdiv(M, tile), N)](
        values_NMH, scale_NM, block[0], target_NMH, values_NMH.stride(0), values_NMH.stride(1), scale_NM.stride(0),
        target_NMH.stride(0), target_NMH.stride(1), M, block[1], H=H, ROWS=tile, num_warps=WARPS,
    )  # fmt: skip


assert FP8_MAX == 448.0  # written out in the kernels, which see no Python globals
