"""Chooses how each fused operation runs: Triton on a GPU, else the torch reference. The reason is logged once.

How its tensors must lie in memory is checked here, for both alike: a kernel that finds them otherwise reads rubbish.
"""

import logging
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

from liveavatar.fast import reference
from liveavatar.fast.flash3 import FlashAttention3
from liveavatar.fast.reference import (
    FP8,
    Block,
    Branch,
    KeyValues8,
    KeyValuesE4m3,
    NormSpec,
    Quantised,
    Queries8,
    Rows,
    Slots,
)

log = logging.getLogger(__name__)

_BRANCHES = 2  # that `add_norm` adds at once


def compile_errors() -> tuple[type[Exception], ...]:
    """Return the errors of Triton's compiler; none when it is missing."""
    try:
        from triton.errors import TritonError
    except ImportError:
        return ()
    return (TritonError,)


@lru_cache(maxsize=1)
def _kernels() -> ModuleType | None:
    """Import the Triton kernels and try one; None when they cannot run here."""
    try:
        from liveavatar.fast import kernels

        x = torch.ones(2, 256, dtype=torch.bfloat16, device="cuda")
        kernels.gelu_rows(x, quantise=torch.cuda.get_device_capability() >= (8, 9))
    except (ImportError, RuntimeError, OSError, AttributeError, TypeError, ValueError, *compile_errors()) as e:
        log.warning("fused kernels are off, plain torch takes their place: %s: %s", type(e).__name__, e)
        return None
    return kernels


def backend(device: torch.device) -> ModuleType:
    """Choose the module whose functions run on a device: `kernels` or `reference`."""
    return (_kernels() or reference) if device.type == "cuda" else reference


def has_fp8(device: torch.device) -> str | None:
    """Give the reason why 8-bit matrix products cannot run on a device; None when they can."""
    if device.type != "cuda":
        return "8-bit linear layers need a GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 9):
        name = torch.cuda.get_device_name(device)
        return f"{name} (compute capability {capability[0]}.{capability[1]}) has no 8-bit matrix unit"
    return None if hasattr(torch, "_scaled_mm") else "this PyTorch has no 8-bit matrix product"


def has_attention8(device: torch.device) -> str | None:
    """Give the reason why attention in 8 bits cannot run on a device; None when it can."""
    reason = has_fp8(device)
    if reason is None and backend(device) is reference:
        return "the fused kernels cannot run here, and without them it would be slower than in 16 bits"
    return reason


def add_norm(
    x_LD: Tensor, branches: Sequence[Branch], spec: NormSpec, out_dtype: torch.dtype, keep: bool = True
) -> tuple[Tensor, Rows]:
    """Add gated branches to rows, then apply the modulated norm."""
    _follow(x_LD)
    for t in (spec.mul, spec.add):
        _follow(t, torch.float32)
        assert len(x_LD) % len(t) == 0, f"{len(x_LD)} rows do not share {len(t)} modulations"
    assert len(branches) <= _BRANCHES, f"{len(branches)} branches"
    for y_LD, gate_D in branches:
        _follow(y_LD)
        assert y_LD.shape == x_LD.shape, f"{tuple(y_LD.shape)} is added to {tuple(x_LD.shape)}"
        if gate_D is not None:
            _follow(gate_D, torch.float32)
    return backend(x_LD.device).add_norm(x_LD, branches, spec, out_dtype, keep)


def gelu_rows(x_LD: Tensor, quantise: bool) -> Rows:
    """Apply GELU to rows."""
    _follow(x_LD)
    return backend(x_LD.device).gelu_rows(x_LD, quantise)


def quantise_rows(x_LD: Tensor) -> Quantised:
    """Quantise rows to e4m3."""
    _follow(x_LD)
    return backend(x_LD.device).quantise_rows(x_LD)


def rms_rows(x_LD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Normalise rows, which may lie apart in memory, by their RMS."""
    _inner(x_LD)
    _follow(weight_D)
    return backend(x_LD.device).rms_rows(x_LD, weight_D, eps)


def rms_rope_write(
    qkv_L3D: Tensor, norms: tuple[Tensor, Tensor, float], rotation: tuple[Tensor, Tensor], slots: Slots
) -> Tensor:
    """Normalise and rotate queries and keys, write keys and values into their slots, return the queries."""
    _follow(qkv_L3D)
    for weight in norms[:2]:
        _follow(weight)
    _turns(rotation, len(qkv_L3D), slots.k.shape[2])
    for t in (slots.k, slots.v):
        _inner(t, qkv_L3D.dtype if slots.v_scale is None else FP8)
    assert (slots.k.shape, slots.k.stride()) == (slots.v.shape, slots.v.stride()), "keys and values lie differently"
    if slots.v_scale is not None:
        _head_scales(slots.v_scale, slots.v)
    _first_slot(slots.start)
    return backend(qkv_L3D.device).rms_rope_write(qkv_L3D, norms, rotation, slots)


def rope_copy(source_NLH: Tensor, rotation: tuple[Tensor, Tensor], target_NLH: Tensor) -> None:
    """Copy rotated keys, in 16 bits or in e4m3."""
    _inner(source_NLH)
    _inner(target_NLH, FP8 if target_NLH.dtype == FP8 else source_NLH.dtype)
    assert target_NLH.shape == source_NLH.shape, f"{tuple(source_NLH.shape)} goes to {tuple(target_NLH.shape)}"
    _turns(rotation, *source_NLH.shape[1:])
    backend(source_NLH.device).rope_copy(source_NLH, rotation, target_NLH)


def rms_silu(x_CTHW: Tensor, bias_C: Tensor | None, gamma_C: Tensor, out_CTHW: Tensor) -> None:
    """Apply the decoder's norm and activation; further channels of `out` become 0."""
    _pixels(x_CTHW, out_CTHW)
    fits = out_CTHW.shape[1:] == x_CTHW.shape[1:] and len(out_CTHW) >= len(x_CTHW)
    assert fits, f"{tuple(x_CTHW.shape)} goes to {tuple(out_CTHW.shape)}"
    for t in (gamma_C,) if bias_C is None else (gamma_C, bias_C):
        _each(t, len(x_CTHW))
    backend(x_CTHW.device).rms_silu(x_CTHW, bias_C, gamma_C, out_CTHW)


def add_bias(x_CTHW: Tensor, bias_C: Tensor, skip_CTHW: Tensor | None = None) -> None:
    """Add a convolution's bias and the residual branch, in place."""
    _pixels(x_CTHW)
    _each(bias_C, len(x_CTHW))
    if skip_CTHW is not None:
        _pixels(skip_CTHW)
        assert skip_CTHW.shape == x_CTHW.shape, f"{tuple(skip_CTHW.shape)} is added to {tuple(x_CTHW.shape)}"
    backend(x_CTHW.device).add_bias(x_CTHW, bias_C, skip_CTHW)


def enlarge(x_QTHW: Tensor, bias_Q: Tensor | None, out_CTHW: Tensor) -> None:
    """Double height and width, and interleave the frames of a temporal convolution."""
    _pixels(x_QTHW, out_CTHW)
    (Q, T, H, W), C = x_QTHW.shape, len(out_CTHW)
    assert out_CTHW.shape == (C, T * (Q // C), 2 * H, 2 * W), f"{(Q, T, H, W)} goes to {tuple(out_CTHW.shape)}"
    assert Q in (C, 2 * C), f"{Q} channels go to {C}"
    if bias_Q is not None:
        _each(bias_Q, Q)
    backend(x_QTHW.device).enlarge(x_QTHW, bias_Q, out_CTHW)


def quantise_slots(source_NMH: Tensor, values_NMH: Tensor, scale_NM: Tensor, block: Block) -> None:
    """Quantise a block's slots into an e4m3 ring."""
    _inner(source_NMH)
    assert source_NMH.shape == values_NMH.shape, f"{tuple(source_NMH.shape)} goes to {tuple(values_NMH.shape)}"
    _eight_bit(values_NMH, scale_NM)
    _first_slot(block[0])
    backend(source_NMH.device).quantise_slots(source_NMH, values_NMH, scale_NM, block)


def dequantise_slots(values_NMH: Tensor, scale_NM: Tensor, target_NMH: Tensor, block: Block) -> None:
    """Convert an e4m3 ring back to the model's dtype."""
    _eight_bit(values_NMH, scale_NM)
    _inner(target_NMH)
    assert target_NMH.shape == values_NMH.shape, f"{tuple(values_NMH.shape)} goes to {tuple(target_NMH.shape)}"
    _first_slot(block[0])
    backend(values_NMH.device).dequantise_slots(values_NMH, scale_NM, target_NMH, block)


def rms_rope_write8(
    qkv_L3D: Tensor,
    norms: tuple[Tensor, Tensor, float],
    rotation: tuple[Tensor, Tensor],
    into: KeyValues8,
    start: Tensor,
) -> Queries8:
    """Normalise and rotate queries and keys, write keys and values into their slots, in 8 bits."""
    _follow(qkv_L3D)
    for weight in norms[:2]:
        _follow(weight)
    _turns(rotation, len(qkv_L3D), into.k.shape[2])
    _key_values8(into)
    _first_slot(start)
    return backend(qkv_L3D.device).rms_rope_write8(qkv_L3D, norms, rotation, into, start)


def rope_copy8(source_NLH: Tensor, rotation: tuple[Tensor, Tensor], into: KeyValues8) -> None:
    """Copy rotated keys in 8 bits."""
    _inner(source_NLH)
    _key_values8(into)
    assert into.k.shape == source_NLH.shape, f"{tuple(source_NLH.shape)} goes to {tuple(into.k.shape)}"
    _turns(rotation, *source_NLH.shape[1:])
    backend(source_NLH.device).rope_copy8(source_NLH, rotation, into)


def write_values8(v_NLH: Tensor, into: KeyValues8, start: Tensor) -> None:
    """Write values into their slots in e4m3."""
    _inner(v_NLH)
    _key_values8(into)
    _first_slot(start)
    backend(v_NLH.device).write_values8(v_NLH, into, start)


def attend8(queries: Queries8, seen: KeyValues8, dtype: torch.dtype) -> Tensor:
    """Attend in 8 bits: rows [L, N * H]."""
    q, scale = queries
    _follow(q, torch.int8)
    _follow(scale, torch.float32)
    _key_values8(seen)
    assert scale.shape == (q.shape[1], q.shape[0]), f"{tuple(scale.shape)} scales {tuple(q.shape)}"
    assert (q.shape[1], q.shape[2]) == (seen.k.shape[0], seen.k.shape[2]), f"{tuple(q.shape)}, {tuple(seen.k.shape)}"
    return backend(q.device).attend8(queries, seen, dtype)


def attend_text(q_LNH: Tensor, k_NMH: Tensor, v_NMH: Tensor, counts_2: Tensor) -> Tensor:
    """Attend to the keys that count, the last of which stands for several equal ones: rows [L, N * H].

    Args:
        q_LNH: queries.
        k_NMH: keys.
        v_NMH: values.
        counts_2: int32, the number of keys that count, and how many equal ones the last of them stands for.
    """
    for t in (q_LNH, k_NMH, v_NMH):
        _follow(t)
    _follow(counts_2, torch.int32)
    assert k_NMH.shape == v_NMH.shape == (q_LNH.shape[1], k_NMH.shape[1], q_LNH.shape[2]), (
        f"{tuple(q_LNH.shape)}, {tuple(k_NMH.shape)}, {tuple(v_NMH.shape)}"
    )
    return backend(q_LNH.device).attend_text(q_LNH, k_NMH, v_NMH, counts_2)


def attend_e4m3(q_LNH: Tensor, seen: KeyValuesE4m3, dtype: torch.dtype, kernel: FlashAttention3 | None) -> Tensor:
    """Attend in e4m3: rows [L, N * H]; by the torch reference where there is no kernel."""
    _follow(q_LNH, FP8)
    _key_values_e4m3(seen)
    assert q_LNH.shape[1:] == seen.k.shape[::2], f"{tuple(q_LNH.shape)}, {tuple(seen.k.shape)}"
    return reference.attend_e4m3(q_LNH, seen, dtype) if kernel is None else kernel.attend_e4m3(q_LNH, seen)


# What the kernels take for granted. The torch reference would not mind, so it is asked of both.


def _follow(t: Tensor, dtype: torch.dtype | None = None) -> None:
    """Assert that rows follow on one another in memory, and their elements too."""
    assert t.is_contiguous(), f"{tuple(t.shape)} lies in memory as {t.stride()}"
    assert dtype in (None, t.dtype), f"{t.dtype} instead of {dtype}"


def _inner(t: Tensor, dtype: torch.dtype | None = None) -> None:
    """Assert that the elements of a row follow on one another; rows may lie anywhere."""
    assert t.stride(-1) == 1 or t.shape[-1] == 1, f"{tuple(t.shape)} lies in memory as {t.stride()}"
    assert dtype in (None, t.dtype), f"{t.dtype} instead of {dtype}"


def _pixels(*tensors_CTHW: Tensor) -> None:
    """Assert that channels lie innermost in memory, pixels and frames without gaps."""
    for t in tensors_CTHW:
        _follow(t.permute(1, 2, 3, 0))


def _each(t: Tensor, number: int) -> None:
    _follow(t)
    assert t.shape == (number,), f"{tuple(t.shape)} for {number} channels"


def _turns(rotation: tuple[Tensor, Tensor], num_rows: int, head_dim: int) -> None:
    for t in rotation:
        _follow(t, torch.float32)
        assert len(t) >= num_rows, f"{len(t)} rotations for {num_rows} rows"
        assert t.shape[1] == head_dim // 2, f"{t.shape[1]} rotations for {head_dim // 2} pairs"


def _first_slot(start: Tensor) -> None:
    assert start.shape == (1,), f"first slot of shape {tuple(start.shape)}"
    assert start.dtype == torch.int32, f"first slot in {start.dtype}"


def _eight_bit(values_NMH: Tensor, scale_NM: Tensor) -> None:
    _inner(values_NMH, FP8)
    _inner(scale_NM, torch.float32)
    assert scale_NM.shape == values_NMH.shape[:2], f"{tuple(scale_NM.shape)} scales {tuple(values_NMH.shape)}"
    head_dim = values_NMH.shape[2]
    assert head_dim & (head_dim - 1) == 0, f"heads of {head_dim} elements; 8-bit rings want a power of two"


def _key_values8(t: KeyValues8) -> None:
    _inner(t.k, torch.int8)
    _inner(t.v, FP8)
    _inner(t.k_scale, torch.float32)
    _each(t.v_scale, 1)
    (N, M, H), facts = t.k.shape, f"{tuple(t.k.shape)}, {tuple(t.k_scale.shape)}, {tuple(t.v.shape)}"
    assert (t.k_scale.shape, t.v.shape) == ((N, M), (N, H, M)), facts
    assert H & (H - 1) == 0, f"heads of {H} elements; attention in 8 bits wants a power of two"


def _key_values_e4m3(t: KeyValuesE4m3) -> None:
    for x in (t.k, t.v):
        _inner(x, FP8)
    assert (t.k.shape, t.k.stride()) == (t.v.shape, t.v.stride()), "keys and values lie differently"
    _head_scales(t.v_scale, t.v)


def _head_scales(scale_N: Tensor, values_NMH: Tensor) -> None:
    _follow(scale_N, torch.float32)
    assert scale_N.shape == values_NMH.shape[:1], f"{tuple(scale_N.shape)} scales {tuple(values_NMH.shape)}"
