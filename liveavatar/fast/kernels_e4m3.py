"""Kernels that normalise and rotate queries and keys and put them into e4m3 rings; see `kernels`."""

# ruff: noqa: PLR0913
# mypy: disallow-untyped-defs=False, check-untyped-defs=False

import torch
import triton
import triton.language as tl
from torch import Tensor

from liveavatar.fast.kernels_rings import WARPS, _rms, _rotate, width
from liveavatar.fast.reference import FP8, FP8_MAX, KeyValuesE4m3


@triton.jit
def _store(x, target, mask):
    x = tl.minimum(tl.maximum(x, -448.0), 448.0)
    tl.store(target, x.to(target.dtype.element_ty), mask=mask)


@triton.jit
def _rms_rope_write_e4m3(
    qkv, wq, wk, cos, sin, start, q_out, k_out, v_out, v_scale, head_stride, slot_stride, eps,
    D: tl.constexpr, H: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    at = tl.arange(0, BLOCK)
    mask = at < D
    slot = tl.load(start).to(tl.int64) + row
    there = (at // H) * head_stride + slot * slot_stride + at % H
    if part == 0:
        q = _rotate(_rms(qkv, 3 * D, wq, eps, D, at, mask), cos, sin, row, at, mask, BLOCK, H // 2)
        _store(q.to(tl.float32), q_out + row * D + at, mask)
    elif part == 1:
        k = _rotate(_rms(qkv + D, 3 * D, wk, eps, D, at, mask), cos, sin, row, at, mask, BLOCK, H // 2)
        _store(k.to(tl.float32), k_out + there, mask)
    else:
        v = tl.load(qkv + row * 3 * D + 2 * D + at, mask=mask, other=0.0).to(tl.float32)
        _store(v / tl.load(v_scale + at // H, mask=mask, other=1.0), v_out + there, mask)


def rms_rope_write_e4m3(
    qkv_L3D: Tensor,
    norms: tuple[Tensor, Tensor, float],
    rotation: tuple[Tensor, Tensor],
    into: KeyValuesE4m3,
    start: Tensor,
) -> Tensor:
    """Normalise and rotate queries and keys, and write keys and values into their slots, in e4m3."""
    L, D = qkv_L3D.shape[0], qkv_L3D.shape[1] // 3
    N, _, H = into.k.shape
    q = torch.empty(L, N, H, dtype=FP8, device=qkv_L3D.device)
    _rms_rope_write_e4m3[(L, 3)](
        qkv_L3D, norms[0], norms[1], *rotation, start, q, into.k, into.v, into.v_scale,
        into.k.stride(0), into.k.stride(1), norms[2], D=D, H=H, BLOCK=width(D), num_warps=WARPS,
    )  # fmt: skip
    return q


@triton.jit
def _rope_copy_e4m3(source, cos, sin, target, s_head, s_row, t_head, t_row, N: tl.constexpr,
                    H: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    mask = at < N * H
    x = tl.load(source + (at // H) * s_head + row * s_row + at % H, mask=mask, other=0.0)
    x = _rotate(x, cos, sin, row, at, mask, BLOCK, H // 2)
    _store(x.to(tl.float32), target + (at // H) * t_head + row * t_row + at % H, mask)


def rope_copy_e4m3(source_NLH: Tensor, rotation: tuple[Tensor, Tensor], into: KeyValuesE4m3) -> None:
    """Copy rotated keys in e4m3."""
    N, L, H = source_NLH.shape
    _rope_copy_e4m3[(L,)](
        source_NLH, *rotation, into.k, source_NLH.stride(0), source_NLH.stride(1), into.k.stride(0), into.k.stride(1),
        N=N, H=H, BLOCK=width(N * H), num_warps=WARPS,
    )  # fmt: skip


assert FP8_MAX == 448.0  # written out in the kernels, which see no Python globals
