"""Chooses how each fused operation runs: Triton on a GPU, else the torch reference. The reason is logged once."""

import logging
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

from liveavatar.fast import reference
from liveavatar.fast.reference import NormSpec, Quantised, Rows, Slots

log = logging.getLogger(__name__)


def compile_errors() -> tuple[type[Exception], ...]:
    """What Triton raises when it cannot compile; nothing when it is missing."""
    try:
        from triton.errors import TritonError
    except ImportError:
        return ()
    return (TritonError,)


@lru_cache(maxsize=1)
def _kernels() -> ModuleType | None:
    """The Triton kernels, after one of them has run here; None when they cannot."""
    try:
        from liveavatar.fast import kernels

        x = torch.ones(2, 256, dtype=torch.bfloat16, device="cuda")
        kernels.gelu_rows(x, quantise=torch.cuda.get_device_capability() >= (8, 9))
    except (ImportError, RuntimeError, OSError, AttributeError, TypeError, ValueError, *compile_errors()) as e:
        log.warning("fused kernels are off, plain torch takes their place: %s: %s", type(e).__name__, e)
        return None
    return kernels


def backend(device: torch.device) -> ModuleType:
    """The module whose functions run on a device: `kernels` or `reference`."""
    return (_kernels() or reference) if device.type == "cuda" else reference


def has_fp8(device: torch.device) -> str | None:
    """Why 8-bit matrix products cannot run on a device; None when they can."""
    if device.type != "cuda":
        return "8-bit linear layers need a GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 9):
        name = torch.cuda.get_device_name(device)
        return f"{name} (compute capability {capability[0]}.{capability[1]}) has no 8-bit matrix unit"
    return None if hasattr(torch, "_scaled_mm") else "this PyTorch has no 8-bit matrix product"


def add_norm(
    x_LD: Tensor, y_LD: Tensor | None, gate_D: Tensor | None, spec: NormSpec, out_dtype: torch.dtype
) -> tuple[Tensor, Rows]:
    """x + gate * y, then its modulated norm; see `reference.add_norm`."""
    return backend(x_LD.device).add_norm(x_LD, y_LD, gate_D, spec, out_dtype)


def gelu_rows(x_LD: Tensor, quantise: bool) -> Rows:
    """GELU of rows; see `reference.gelu_rows`."""
    return backend(x_LD.device).gelu_rows(x_LD, quantise)


def quantise_rows(x_LD: Tensor) -> Quantised:
    """Rows to e4m3; see `reference.quantise_rows`."""
    return backend(x_LD.device).quantise_rows(x_LD)


def rms_rows(x_LD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """RMS norm of rows; see `reference.rms_rows`."""
    return backend(x_LD.device).rms_rows(x_LD, weight_D, eps)


def rms_rope_write(
    qkv_L3D: Tensor, norms: tuple[Tensor, Tensor, float], rotation: tuple[Tensor, Tensor], slots: Slots
) -> Tensor:
    """Queries out, keys and values into their slots; see `reference.rms_rope_write`."""
    return backend(qkv_L3D.device).rms_rope_write(qkv_L3D, norms, rotation, slots)


def rope_copy(source_NLH: Tensor, rotation: tuple[Tensor, Tensor], target_NLH: Tensor) -> None:
    """Rotated copy of keys; see `reference.rope_copy`."""
    backend(source_NLH.device).rope_copy(source_NLH, rotation, target_NLH)


def rms_silu(x_CTHW: Tensor, gamma_C: Tensor, out_CTHW: Tensor) -> None:
    """The decoder's norm and activation; see `reference.rms_silu`."""
    backend(x_CTHW.device).rms_silu(x_CTHW, gamma_C, out_CTHW)


def quantise_slots(source_NLH: Tensor, values_NMH: Tensor, scale_NM: Tensor, start: Tensor) -> None:
    """A block's keys into an e4m3 ring; see `reference.quantise_slots`."""
    backend(source_NLH.device).quantise_slots(source_NLH, values_NMH, scale_NM, start)


def dequantise_slots(values_NMH: Tensor, scale_NM: Tensor, target_NMH: Tensor) -> None:
    """An e4m3 ring back to the model's dtype; see `reference.dequantise_slots`."""
    backend(values_NMH.device).dequantise_slots(values_NMH, scale_NM, target_NMH)
