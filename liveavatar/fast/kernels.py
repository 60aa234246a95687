"""The transformer's fused kernels in Triton, and with them those of `kernels_rings`, `kernels_attention` and
`kernels_decoder`; `reference` says what each computes, `ops` how its tensors must lie.

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

from liveavatar.fast.kernels_attention import attend8, attend_text, rms_rope_write8, rope_copy8, write_values8
from liveavatar.fast.kernels_decoder import add_bias, enlarge, rms_silu
from liveavatar.fast.kernels_rings import dequantise_slots, quantise_slots, rms_rope_write, rms_rows, rope_copy
from liveavatar.fast.reference import AMAX_FLOOR, FP8, FP8_MAX, Branch, NormSpec, Quantised, Rows

__all__ = [
    "add_bias", "add_norm", "attend8", "attend_text", "dequantise_slots", "enlarge", "gelu_rows", "quantise_rows",
    "quantise_slots", "rms_rope_write", "rms_rope_write8", "rms_rows", "rms_silu", "rope_copy", "rope_copy8",
    "write_values8",
]  # fmt: skip

_WARPS = 8
_EACH = 4  # elements that a thread reads at once: 16 bytes of fp32; alike for all dtypes, so that none change hands
_LONG = 8192  # elements of a row that more threads share


def _width(n: int) -> int:
    return triton.next_power_of_2(n)


def _cut(n: int) -> dict[str, int]:
    """Cut a row into chunks of a power of two, as a whole row seldom is one."""
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
        inverse = 448.0 / amax
    for i in tl.static_range(CHUNKS):
        v = h[i] * inverse if QUANT else h[i]
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
    """Add branches to rows and normalise the sum."""
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
    """Apply GELU to rows."""
    L, D = x_LD.shape
    out, scale = _outputs(L, D, x_LD, quantise, x_LD.dtype)
    _rows[(L,)](x_LD, out, scale, D=D, GELU=True, QUANT=quantise, FLOOR=AMAX_FLOOR, **_cut(D))
    return Quantised(out, scale) if quantise else out


def quantise_rows(x_LD: Tensor) -> Quantised:
    """Quantise rows to e4m3."""
    L, D = x_LD.shape
    out, scale = _outputs(L, D, x_LD, True, FP8)
    _rows[(L,)](x_LD, out, scale, D=D, GELU=False, QUANT=True, FLOOR=AMAX_FLOOR, **_cut(D))
    return Quantised(out, scale)


assert FP8_MAX == 448.0  # written out in the kernels, which see no Python globals
