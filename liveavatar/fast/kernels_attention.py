"""Self-attention in 8 bits: queries and keys in int8, values and their weights in e4m3, sums in fp32; see `kernels`.

Bound by the matrix unit and by exponentials. A program takes a tile of queries of one head past all keys, as flash
attention does.
"""

# ruff: noqa: PLR0913
# mypy: disallow-untyped-defs=False, check-untyped-defs=False

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from liveavatar.fast.kernels_rings import WARPS, _rms, _rotate, width
from liveavatar.fast.reference import AMAX_FLOOR, FP8_MAX, INT8_MAX, WEIGHT_MAX, KeyValues8, Queries8

_TOKENS = 64  # of a tile of values on its way to where tokens are innermost
# Queries and keys of a tile, warps and stages: the fastest of those tried on a Hopper GPU; other GPUs have less room.
_HOPPER, _OTHERS = (64, 128, 4, 3), (64, 64, 4, 2)
_TEXT = (64, 32, 4)  # queries and keys of a tile of attention to text, warps: the fastest of 27 on an H200


@triton.jit
def _store_heads(x, values, v_head, scale, s_head, N: tl.constexpr, H: tl.constexpr, HEADS: tl.constexpr,
                 FLOOR: tl.constexpr):  # fmt: skip
    x = tl.reshape(x.to(tl.float32), (HEADS, H))
    head = tl.arange(0, HEADS)
    s = tl.maximum(tl.max(tl.abs(x), axis=1), FLOOR) / 127.0
    tl.store(scale + head * s_head, s, mask=head < N)
    rounded = tl.floor(x / s[:, None] + 0.5).to(tl.int8)
    tl.store(values + head[:, None] * v_head + tl.arange(0, H)[None, :], rounded, mask=(head < N)[:, None])


@triton.jit
def _rms_rope_write8(
    qkv, wq, wk, cos, sin, start, q, q_scale, q_scale_head, k, k_head, k_row, k_scale, k_scale_head, eps,
    D: tl.constexpr, N: tl.constexpr, H: tl.constexpr, BLOCK: tl.constexpr, FLOOR: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    mask = at < D
    HEADS: tl.constexpr = BLOCK // H
    if tl.program_id(1) == 0:
        x = _rotate(_rms(qkv, 3 * D, wq, eps, D, at, mask), cos, sin, row, at, mask, BLOCK, H // 2)
        _store_heads(x, q + row * D, H, q_scale + row, q_scale_head, N, H, HEADS, FLOOR)
    else:
        slot = tl.load(start).to(tl.int64) + row
        x = _rotate(_rms(qkv + D, 3 * D, wk, eps, D, at, mask), cos, sin, row, at, mask, BLOCK, H // 2)
        _store_heads(x, k + slot * k_row, k_head, k_scale + slot, k_scale_head, N, H, HEADS, FLOOR)


def rms_rope_write8(
    qkv_L3D: Tensor,
    norms: tuple[Tensor, Tensor, float],
    rotation: tuple[Tensor, Tensor],
    into: KeyValues8,
    start: Tensor,
) -> Queries8:
    """Normalise and rotate queries and keys, and write keys and values into their slots, in 8 bits."""
    L, D = qkv_L3D.shape[0], qkv_L3D.shape[1] // 3
    N, _, H = into.k.shape
    q = torch.empty(L, N, H, dtype=torch.int8, device=qkv_L3D.device)
    q_scale = torch.empty(N, L, dtype=torch.float32, device=qkv_L3D.device)
    _rms_rope_write8[(L, 2)](
        qkv_L3D, norms[0], norms[1], *rotation, start, q, q_scale, L, into.k, into.k.stride(0), into.k.stride(1),
        into.k_scale, into.k_scale.stride(0), norms[2], D=D, N=N, H=H, BLOCK=width(D), FLOOR=AMAX_FLOOR,
        num_warps=WARPS,
    )  # fmt: skip
    write_values8(qkv_L3D[:, 2 * D :].unflatten(1, (N, H)).transpose(0, 1), into, start)
    return q, q_scale


@triton.jit
def _rope_copy8(source, cos, sin, k, scale, s_head, s_row, k_head, k_row, scale_head, N: tl.constexpr, H: tl.constexpr,
                BLOCK: tl.constexpr, FLOOR: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    mask = at < N * H
    x = tl.load(source + (at // H) * s_head + row * s_row + at % H, mask=mask, other=0.0)
    x = _rotate(x, cos, sin, row, at, mask, BLOCK, H // 2)
    _store_heads(x, k + row * k_row, k_head, scale + row, scale_head, N, H, BLOCK // H, FLOOR)


def rope_copy8(source_NLH: Tensor, rotation: tuple[Tensor, Tensor], into: KeyValues8) -> None:
    """Copy rotated keys in 8 bits."""
    N, L, H = source_NLH.shape
    _rope_copy8[(L,)](
        source_NLH, *rotation, into.k, into.k_scale, source_NLH.stride(0), source_NLH.stride(1), into.k.stride(0),
        into.k.stride(1), into.k_scale.stride(0), N=N, H=H, BLOCK=width(N * H), FLOOR=AMAX_FLOOR, num_warps=WARPS,
    )  # fmt: skip


@triton.jit
def _write_values8(source, target, scale, start, num_rows, s_head, s_row, t_head, t_width, H: tl.constexpr,
                   ROWS: tl.constexpr):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    head = tl.program_id(1).to(tl.int64)
    at = tl.arange(0, H)
    mask = (row < num_rows)[:, None]
    x = tl.load(source + head * s_head + row.to(tl.int64)[:, None] * s_row + at[None, :], mask=mask, other=0.0)
    x = tl.minimum(tl.maximum(x.to(tl.float32) / tl.load(scale), -448.0), 448.0).to(target.dtype.element_ty)
    there = tl.load(start).to(tl.int64) + row
    tl.store(target + head * t_head + at[None, :] * t_width + there[:, None], x, mask=mask)


def write_values8(v_NLH: Tensor, into: KeyValues8, start: Tensor) -> None:
    """Write values into their slots in e4m3."""
    N, L, H = v_NLH.shape
    _write_values8[(triton.cdiv(L, _TOKENS), N)](
        v_NLH, into.v, into.v_scale, start, L, v_NLH.stride(0), v_NLH.stride(1), into.v.stride(0), into.v.stride(1),
        H=H, ROWS=_TOKENS, num_warps=4,
    )  # fmt: skip


@triton.jit
def _soften(s, scale, row_scale, top, total):
    """Turn a tile of products into (weights up to 256, how much earlier tiles fade, largest logit, sum of weights)."""
    t = s.to(tl.float32) * scale[None, :]
    new = tl.maximum(top, tl.max(t, 1))
    p = tl.exp2(t * row_scale[:, None] - (new * row_scale - 8.0)[:, None])
    fade = tl.exp2((top - new) * row_scale)
    return p, fade, new, total * fade + tl.sum(p, 1)


@triton.jit
def _attend8(
    q, q_scale, k, k_scale, v, v_scale, out, factor, num_q, num_k, k_head, k_row, k_scale_head, v_head, v_width,
    N: tl.constexpr, H: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    head = tl.program_id(1).to(tl.int64)
    at, key = tl.arange(0, H), tl.arange(0, KEYS)
    there = row.to(tl.int64)[:, None] * (N * H) + head * H + at[None, :]
    real = row < num_q
    queries = tl.load(q + there, mask=real[:, None], other=0)
    row_scale = tl.load(q_scale + head * num_q + row, mask=real, other=1.0) * factor
    # Far below any logit, and no infinity, which would be subtracted from itself.
    top = tl.full([ROWS], -1e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, H], tl.float32)
    keys = k + head * k_head + key[None, :] * k_row + at[:, None]
    values = v + head * v_head + at[:, None] * v_width + key[None, :]
    scales = k_scale + head * k_scale_head + key
    whole = num_k // KEYS * KEYS
    for first in range(0, whole, KEYS):
        s = tl.dot(queries, tl.load(keys + first * k_row))
        p, fade, top, total = _soften(s, tl.load(scales + first), row_scale, top, total)
        mixed = tl.dot(p.to(tl.float8e4nv), tl.trans(tl.load(values + first)), mixed * fade[:, None])
    if whole < num_k:
        seen = whole + key < num_k
        s = tl.dot(queries, tl.load(keys + whole * k_row, mask=seen[None, :], other=0))
        s = tl.where(seen[None, :], s.to(tl.float32), float("-inf"))
        p, fade, top, total = _soften(s, tl.load(scales + whole, mask=seen, other=1.0), row_scale, top, total)
        last = tl.load(values + whole, mask=seen[None, :], other=0.0)
        mixed = tl.dot(p.to(tl.float8e4nv), tl.trans(last), mixed * fade[:, None])
    mixed = mixed / total[:, None] * tl.load(v_scale)
    tl.store(out + there, mixed.to(out.dtype.element_ty), mask=real[:, None])


def attend8(queries: Queries8, seen: KeyValues8, dtype: torch.dtype) -> Tensor:
    """Attend in 8 bits."""
    q, q_scale = queries
    L, N, H = q.shape
    out = torch.empty(L, N * H, dtype=dtype, device=q.device)
    hopper = q.device.type == "cuda" and torch.cuda.get_device_capability(q.device)[0] == 9
    rows, keys, warps, stages = _HOPPER if hopper else _OTHERS
    k, v = seen.k, seen.v
    _attend8[(triton.cdiv(L, rows), N)](
        q, q_scale, k, seen.k_scale, v, seen.v_scale, out, H**-0.5 * math.log2(math.e), L, k.shape[1], k.stride(0),
        k.stride(1), seen.k_scale.stride(0), v.stride(0), v.stride(1), N=N, H=H, ROWS=rows, KEYS=keys,
        num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


@triton.jit
def _attend_text(
    q, k, v, counts, out, factor, num_q, num_k,
    N: tl.constexpr, H: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    head, row = tl.program_id(0).to(tl.int64), tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    at, key = tl.arange(0, H), tl.arange(0, KEYS)
    there = row.to(tl.int64)[:, None] * (N * H) + head * H + at[None, :]
    queries = tl.load(q + there, mask=(row < num_q)[:, None], other=0.0)
    used, last = tl.load(counts), tl.log2(tl.load(counts + 1).to(tl.float32))
    top = tl.full([ROWS], -1e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, H], tl.float32)
    for first in range(0, used, KEYS):
        seen = first + key < used
        place = head * num_k * H + (first + key)[:, None] * H + at[None, :]
        keys = tl.load(k + place, mask=seen[:, None], other=0.0)
        values = tl.load(v + place, mask=seen[:, None], other=0.0)
        bias = tl.where(seen, tl.where(first + key == used - 1, last, 0.0), -1e30)
        s = tl.dot(queries, tl.trans(keys)) * factor + bias[None, :]
        new = tl.maximum(top, tl.max(s, 1))
        p = tl.exp2(s - new[:, None])
        fade = tl.exp2(top - new)
        total = total * fade + tl.sum(p, 1)
        mixed = tl.dot(p.to(values.dtype), values, mixed * fade[:, None])
        top = new
    mixed = mixed / total[:, None]
    tl.store(out + there, mixed.to(out.dtype.element_ty), mask=(row < num_q)[:, None])


def attend_text(q_LNH: Tensor, k_NMH: Tensor, v_NMH: Tensor, counts_2: Tensor) -> Tensor:
    """Attend to the keys that count, the last of which stands for several equal ones."""
    L, N, H = q_LNH.shape
    out = torch.empty(L, N * H, dtype=q_LNH.dtype, device=q_LNH.device)
    rows, keys, warps = _TEXT
    _attend_text[(N, triton.cdiv(L, rows))](
        q_LNH, k_NMH, v_NMH, counts_2, out, H**-0.5 * math.log2(math.e), L, k_NMH.shape[1], N=N, H=H, ROWS=rows,
        KEYS=keys, num_warps=warps, num_stages=1,
    )  # fmt: skip
    return out


# Written out in the kernels, which see no Python globals.
assert (FP8_MAX, INT8_MAX, WEIGHT_MAX) == (448.0, 127.0, 2.0**8)
