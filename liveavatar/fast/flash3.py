"""FlashAttention-3, from the optional package `fa3-fwd`: attention of Hopper GPUs in bf16 and in e4m3.

Its result does not depend on how busy the GPU is: keys are never split over programs (`num_splits` is 1).

Shapes: B batch, N heads, L queries, M keys, H head width.
"""

import logging
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from liveavatar.fast.reference import KeyValuesE4m3

log = logging.getLogger(__name__)

PACKAGE = "fa3-fwd"
HOPPER = (9, 0)  # compute capability; its kernels are built for no other with 8 bits
WIDTHS = (64, 96, 128, 192, 256)  # of heads
# Shorter runs of keys are left to PyTorch: there the launch costs more than the work, and timings decide by chance.
LEAST_KEYS = 1024


class FlashAttention3:
    """Softmax attention without mask by a function with the arguments of `fa3_fwd_interface.flash_attn_func`."""

    name = "FLASH_ATTENTION_3"

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function

    def suits(self, q: tuple[int, ...], k: tuple[int, ...], dtype: torch.dtype) -> bool:
        """Tell if queries [B, N, L, H] and keys [B, N, M, H] are work for it."""
        return dtype == torch.bfloat16 and q[-1] in WIDTHS and k[-2] >= LEAST_KEYS

    def __call__(self, q_BNLH: Tensor, k_BNMH: Tensor, v_BNMH: Tensor) -> Tensor:
        """Attend in bf16: [B, L, N, H], contiguous."""
        return self.function(*(t.transpose(1, 2) for t in (q_BNLH, k_BNMH, v_BNMH)))

    def attend_e4m3(self, q_LNH: Tensor, seen: KeyValuesE4m3) -> Tensor:
        """Attend in e4m3, the weights of values too: bf16 [L, N * H]."""
        k, v = (t.transpose(0, 1)[None] for t in (seen.k, seen.v))
        out = self.function(q_LNH[None], k, v, v_descale=seen.v_scale[None])
        return out[0].flatten(1)


@lru_cache(maxsize=8)
def flash3(device: torch.device) -> FlashAttention3 | None:
    """Load it for a device; None where it cannot run. The log says once which it is."""
    reason = _missing(device)
    if reason is None:
        try:
            from fa3_fwd_interface import flash_attn_func
        except (ImportError, OSError, RuntimeError) as e:
            reason = f"{PACKAGE} does not load: {e}"
        else:
            log.info("attention: FlashAttention-3 of %s for %d keys or more", PACKAGE, LEAST_KEYS)
            return FlashAttention3(flash_attn_func)
    if device.type == "cuda":
        log.info("attention: PyTorch's kernels; %s", reason)
    return None


def _missing(device: torch.device) -> str | None:
    if device.type != "cuda":
        return "FlashAttention-3 needs a GPU"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) != HOPPER:
        return f"FlashAttention-3 is for compute capability {HOPPER[0]}.{HOPPER[1]}, and this is {major}.{minor}"
    return None
