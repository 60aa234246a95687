"""Softmax attention on the backend that suits each shape: FlashAttention-3, or one of PyTorch's.

Backends round differently, so the choice decides bits: processes that render the same job must choose alike. Hence a
fixed order of preference, from which only a clearly faster backend may depart, and one choice for all ranks of a group.
On an H200 FlashAttention-3 takes 0.85 of cuDNN's time for self-attention, the only work it is asked for. For the rest
cuDNN is the first choice: PyTorch's FlashAttention takes 1.2 to 2 times as long, and about as long where the launch
costs more than the work (audio and text at 256*384), where a timing alone would decide by chance.

Shapes: B batch, N heads, L queries, M keys, H head width.
"""

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from liveavatar.errors import CapacityError
from liveavatar.fast.flash3 import FlashAttention3, flash3

log = logging.getLogger(__name__)

CLEARLY_FASTER = 1.5  # times as fast; repeated timings of short kernels differ by up to 1.4
TRIES = 10

Shape = tuple[int, ...]
Agree = Callable[[str, str], str]  # question, own answer -> answer of all ranks


class AttentionKernel(Protocol):
    """A way to compute softmax attention without mask."""

    @property
    def name(self) -> str:
        """Its name among all ranks."""

    def suits(self, q: Shape, k: Shape, dtype: torch.dtype) -> bool:
        """Tell if queries [B, N, L, H] and keys [B, N, M, H] are work for it."""

    def __call__(self, q_BNLH: Tensor, k_BNMH: Tensor, v_BNMH: Tensor) -> Tensor:
        """Attend: [B, L, N, H]."""


TimeBackend = Callable[[AttentionKernel, Tensor, Tensor, Tensor], float | None]  # seconds; None: it cannot do the shape


@dataclass(frozen=True, slots=True)
class PytorchAttention:
    """A backend of PyTorch."""

    backend: SDPBackend

    @property
    def name(self) -> str:
        """PyTorch's name."""
        return self.backend.name

    def suits(self, q: Shape, k: Shape, dtype: torch.dtype) -> bool:
        """Leave the answer to a try."""
        return True

    def __call__(self, q_BNLH: Tensor, k_BNMH: Tensor, v_BNMH: Tensor) -> Tensor:
        """Attend: [B, L, N, H]."""
        with sdpa_kernel(self.backend):
            return F.scaled_dot_product_attention(q_BNLH, k_BNMH, v_BNMH).transpose(1, 2)


CUDNN, FLASH, EFFICIENT, MATH = (
    PytorchAttention(backend)
    for backend in (
        SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH,
    )
)  # fmt: skip
PYTORCH: tuple[AttentionKernel, ...] = (CUDNN, FLASH, EFFICIENT)  # in order of preference


def choose(preference: tuple[AttentionKernel, ...], seconds: Mapping[str, float]) -> AttentionKernel:
    """Choose the first backend in the order of preference, or a later one that is clearly faster.

    Args:
        preference: backends, the preferred one first.
        seconds: time of each backend that can do the shape, by its name.
    """
    chosen: AttentionKernel | None = None
    for backend in preference:
        if backend.name not in seconds:
            continue
        if chosen is None or seconds[backend.name] * CLEARLY_FASTER < seconds[chosen.name]:
            chosen = backend
    return MATH if chosen is None else chosen


def gpu_seconds(work: Callable[[], object], repeats: int) -> float:
    """Fastest of a few timed calls, on the GPU's clock."""
    best = float("inf")
    for _ in range(repeats):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        stop.record()
        stop.synchronize()
        best = min(best, start.elapsed_time(stop) / 1e3)
    return best


def time_backend(backend: AttentionKernel, q: Tensor, k: Tensor, v: Tensor) -> float | None:
    """Time a backend on the GPU in seconds; None when it cannot do the shape."""

    def once() -> Tensor:
        return backend(q, k, v)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a backend that cannot do a shape says so, and why all others are off
            once()
            return gpu_seconds(once, TRIES)
    except RuntimeError as e:
        log.debug("%s cannot do %s: %s", backend.name, tuple(q.shape), e)
        return None


@lru_cache(maxsize=256)  # a property of the GPU: an engine that opens while graphs exist must not time anew
def backend_seconds(
    backend: AttentionKernel, q: Shape, k: Shape, dtype: torch.dtype, device: torch.device, time_backend: TimeBackend
) -> float | None:
    """Time a backend in seconds for queries [B, N, L, H] and keys [B, N, M, H]; None when it cannot do them."""
    if not backend.suits(q, k, dtype):
        return None
    B, N, L, H = q
    # Laid out as in the transformer: queries token by token, keys head by head.
    query = torch.randn(B, L, N, H, dtype=dtype, device=device).transpose(1, 2)
    key, value = (torch.randn(k, dtype=dtype, device=device) for _ in range(2))
    return time_backend(backend, query, key, value)


class FastAttention:
    """Softmax attention without mask; each shape's backend is chosen once, at its first use."""

    def __init__(
        self,
        agree: Agree | None = None,
        time_backend: TimeBackend = time_backend,
        load_flash3: Callable[[torch.device], FlashAttention3 | None] = flash3,
    ) -> None:
        """Compose attention.

        Args:
            agree: makes the choice the same on all ranks that render one video; None for a process alone.
            time_backend: the stopwatch.
            load_flash3: gives FlashAttention-3 for a device, or None.
        """
        self.agree, self.time_backend, self.load_flash3 = agree, time_backend, load_flash3
        self._chosen: dict[tuple[Shape, Shape, torch.dtype, torch.device], AttentionKernel] = {}

    def __call__(self, q_BNLH: Tensor, k_BNMH: Tensor, v_BNMH: Tensor) -> Tensor:
        """Attend: rows [B * L, N * H], contiguous."""
        if q_BNLH.device.type != "cuda":
            out = F.scaled_dot_product_attention(q_BNLH, k_BNMH, v_BNMH).transpose(1, 2)
        else:
            backend = self.backend(tuple(q_BNLH.shape), tuple(k_BNMH.shape), q_BNLH.dtype, q_BNLH.device)
            out = backend(q_BNLH, k_BNMH, v_BNMH)
        return out.contiguous().view(-1, out.shape[2] * out.shape[3])

    def backend(self, q: Shape, k: Shape, dtype: torch.dtype, device: torch.device) -> AttentionKernel:
        """Return the backend for queries [B, N, L, H] and keys [B, N, M, H]; call it before a graph is captured."""
        key = (q, k, dtype, device)
        if key not in self._chosen:
            self._chosen[key] = self._choose(q, k, dtype, device)
        return self._chosen[key]

    def _choose(self, q: Shape, k: Shape, dtype: torch.dtype, device: torch.device) -> AttentionKernel:
        newest = self.load_flash3(device)
        preference = PYTORCH if newest is None else (newest, *PYTORCH)
        tried = {b.name: backend_seconds(b, q, k, dtype, device, self.time_backend) for b in preference}
        possible = {name: seconds for name, seconds in tried.items() if seconds is not None}
        chosen = choose(preference, possible)
        if self.agree is not None:
            chosen = self._named(self.agree(f"attention {q} {k} {dtype}", chosen.name), preference)
        listed = ", ".join(f"{name} {1e3 * seconds:.2f} ms" for name, seconds in possible.items())
        log.info("attention %s x %s: %s of %s", list(q), list(k), chosen.name, listed)
        return chosen

    @staticmethod
    def _named(name: str, preference: tuple[AttentionKernel, ...]) -> AttentionKernel:
        for backend in (*preference, MATH):
            if backend.name == name:
                return backend
        raise CapacityError(
            f"attention: another rank chose {name}, which this one does not have; install the same packages on all "
            "machines of a job"
        )
