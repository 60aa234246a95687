"""The decoder's fused kernels in Triton; see `kernels`.

A row is a pixel with all its channels; a program handles a tile of rows. What a convolution gives still wants its
bias: PyTorch would add it in a pass of its own, over the largest tensors there are.
"""

# ruff: noqa: PLR0913
# mypy: disallow-untyped-defs=False, check-untyped-defs=False

import triton
import triton.language as tl
from torch import Tensor

_WARPS = 8
_TILE = 4096  # elements of a program


def _tiles(num_rows: int, width: int) -> tuple[tuple[int], int, int]:
    """Choose the grid, the power of two that holds a row, and the rows of a program."""
    block = triton.next_power_of_2(width)
    rows = max(1, _TILE // block)
    return (triton.cdiv(num_rows, rows),), block, rows


@triton.jit
def _rms_silu(x, bias, gamma, out, num_rows, root, C: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
              ROWS: tl.constexpr, HAS_BIAS: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    at = tl.arange(0, BLOCK)
    there = row[:, None] * C + at[None, :]
    mask = (row[:, None] < num_rows) & (at[None, :] < C)
    v = tl.load(x + there, mask=mask, other=0.0).to(tl.float32)
    if HAS_BIAS:
        v += tl.load(bias + at, mask=at < C, other=0.0).to(tl.float32)[None, :]
    norm = tl.sqrt(tl.sum(v * v, axis=1))
    v = v * (root / tl.maximum(norm, 1e-12))[:, None]
    v = v * tl.load(gamma + at, mask=at < C, other=0.0).to(tl.float32)[None, :]
    v = v / (1.0 + tl.exp(-v))  # 0 beyond the channels of x
    there = out + row[:, None] * WIDE + at[None, :]
    tl.store(there, v.to(out.dtype.element_ty), mask=(row[:, None] < num_rows) & (at[None, :] < WIDE))


def rms_silu(x_CTHW: Tensor, bias_C: Tensor | None, gamma_C: Tensor, out_CTHW: Tensor) -> None:
    """Add a bias, normalise channels and apply SiLU; further channels of `out` become 0."""
    (C, T, H, W), wide = x_CTHW.shape, len(out_CTHW)
    grid, block, rows = _tiles(T * H * W, wide)
    _rms_silu[grid](
        x_CTHW, gamma_C if bias_C is None else bias_C, gamma_C, out_CTHW, T * H * W, C**0.5, C=C, WIDE=wide,
        BLOCK=block, ROWS=rows, HAS_BIAS=bias_C is not None, num_warps=_WARPS,
    )  # fmt: skip


@triton.jit
def _add_bias(x, bias, skip, num_rows, C: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
              HAS_SKIP: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    at = tl.arange(0, BLOCK)
    there = row[:, None] * C + at[None, :]
    mask = (row[:, None] < num_rows) & (at[None, :] < C)
    v = tl.load(x + there, mask=mask, other=0.0).to(tl.float32)
    v += tl.load(bias + at, mask=at < C, other=0.0).to(tl.float32)[None, :]
    if HAS_SKIP:
        v += tl.load(skip + there, mask=mask, other=0.0).to(tl.float32)
    tl.store(x + there, v.to(x.dtype.element_ty), mask=mask)


def add_bias(x_CTHW: Tensor, bias_C: Tensor, skip_CTHW: Tensor | None) -> None:
    """Add a convolution's bias and the residual branch, in place."""
    C, T, H, W = x_CTHW.shape
    grid, block, rows = _tiles(T * H * W, C)
    _add_bias[grid](
        x_CTHW, bias_C, x_CTHW if skip_CTHW is None else skip_CTHW, T * H * W, C=C, BLOCK=block, ROWS=rows,
        HAS_SKIP=skip_CTHW is not None, num_warps=_WARPS,
    )  # fmt: skip


@triton.jit
def _enlarge(x, bias, out, num_rows, H, W, parts, C: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
             HAS_BIAS: tl.constexpr):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)  # of [T, H, W, parts]; their number fits 32 bits
    at = tl.arange(0, BLOCK)
    mask = (row[:, None] < num_rows) & (at[None, :] < C)
    part, pixel = row % parts, row // parts
    # The biases of the parts follow on one another, as their channels do.
    v = tl.load(x + row[:, None].to(tl.int64) * C + at[None, :], mask=mask, other=0.0)
    if HAS_BIAS:
        b = tl.load(bias + part[:, None] * C + at[None, :], mask=mask, other=0.0).to(tl.float32)
        v = (v.to(tl.float32) + b).to(v.dtype)
    frame = (pixel // (H * W)) * parts + part
    first = (frame * 2 * H + 2 * ((pixel // W) % H)) * 2 * W + 2 * (pixel % W)
    there = out + first[:, None].to(tl.int64) * C + at[None, :]
    for line in tl.static_range(2):
        for column in tl.static_range(2):
            tl.store(there + (line * 2 * W + column) * C, v, mask=mask)


def enlarge(x_QTHW: Tensor, bias_Q: Tensor | None, out_CTHW: Tensor) -> None:
    """Double height and width, and interleave the frames of a temporal convolution."""
    Q, T, H, W = x_QTHW.shape
    C = out_CTHW.shape[0]
    num_rows = T * H * W * (Q // C)
    grid, block, rows = _tiles(num_rows, C)
    _enlarge[grid](
        x_QTHW, x_QTHW if bias_Q is None else bias_Q, out_CTHW, num_rows, H, W, Q // C, C=C, BLOCK=block, ROWS=rows,
        HAS_BIAS=bias_Q is not None, num_warps=_WARPS,
    )  # fmt: skip
