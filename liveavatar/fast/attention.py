"""Softmax attention on the backend of PyTorch that suits each shape.

Backends round differently, so the choice decides bits: processes that render the same job must choose alike. Hence a
fixed order of preference, from which only a clearly faster backend may depart, and one choice for all ranks of a group.
On an H200 cuDNN is the first choice at all sizes: FlashAttention takes 1.2 to 2 times as long, and about as long where
the launch costs more than the work (audio and text at 256*384), where a timing alone would decide by chance.

Shapes: B batch, N heads, L queries, M keys, H head width.
"""

import logging
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

log = logging.getLogger(__name__)

PREFERENCE = (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)
CLEARLY_FASTER = 1.5  # times as fast; repeated timings of short kernels differ by up to 1.4
TRIES = 10

Shape = tuple[int, ...]
Agree = Callable[[str, str], str]  # question, own answer -> answer of all ranks
TimeBackend = Callable[[SDPBackend, Tensor, Tensor, Tensor], float | None]  # seconds; None: it cannot do the shape


def choose(seconds: Mapping[SDPBackend, float]) -> SDPBackend:
    """Choose the first backend in the order of preference, or a later one that is clearly faster.

    Args:
        seconds: time of each backend that can do the shape.
    """
    chosen: SDPBackend | None = None
    for backend in PREFERENCE:
        if backend in seconds and (chosen is None or seconds[backend] * CLEARLY_FASTER < seconds[chosen]):
            chosen = backend
    return SDPBackend.MATH if chosen is None else chosen


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


def time_backend(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> float | None:
    """Time a backend on the GPU in seconds; None when it cannot do the shape."""

    def once() -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    try:
        with warnings.catch_warnings(), sdpa_kernel(backend):
            warnings.simplefilter("ignore")  # a backend that cannot do a shape says so, and why all others are off
            once()
            return gpu_seconds(once, TRIES)
    except RuntimeError as e:
        log.debug("%s cannot do %s: %s", backend, tuple(q.shape), e)
        return None


@lru_cache(maxsize=256)  # a property of the GPU: an engine that opens while graphs exist must not time anew
def backend_seconds(
    q: Shape, k: Shape, dtype: torch.dtype, device: torch.device, time_backend: TimeBackend
) -> dict[SDPBackend, float]:
    """Time each backend that can do queries [B, N, L, H] and keys [B, N, M, H], in seconds."""
    B, N, L, H = q
    # Laid out as in the transformer: queries token by token, keys head by head.
    query = torch.randn(B, L, N, H, dtype=dtype, device=device).transpose(1, 2)
    key, value = (torch.randn(k, dtype=dtype, device=device) for _ in range(2))
    times = {backend: time_backend(backend, query, key, value) for backend in PREFERENCE}
    return {backend: seconds for backend, seconds in times.items() if seconds is not None}


class FastAttention:
    """Softmax attention without mask; each shape's backend is chosen once, at its first use."""

    def __init__(self, agree: Agree | None = None, time_backend: TimeBackend = time_backend) -> None:
        """Compose attention.

        Args:
            agree: makes the choice the same on all ranks that render one video; None for a process alone.
            time_backend: the stopwatch.
        """
        self.agree, self.time_backend = agree, time_backend
        self._chosen: dict[tuple[Shape, Shape, torch.dtype, torch.device], SDPBackend] = {}

    def __call__(self, q_BNLH: Tensor, k_BNMH: Tensor, v_BNMH: Tensor) -> Tensor:
        """Attend: rows [B * L, N * H], contiguous."""
        if q_BNLH.device.type != "cuda":
            out = F.scaled_dot_product_attention(q_BNLH, k_BNMH, v_BNMH)
        else:
            backend = self.backend(tuple(q_BNLH.shape), tuple(k_BNMH.shape), q_BNLH.dtype, q_BNLH.device)
            with sdpa_kernel(backend):
                out = F.scaled_dot_product_attention(q_BNLH, k_BNMH, v_BNMH)
        return out.transpose(1, 2).contiguous().view(-1, out.shape[1] * out.shape[3])

    def backend(self, q: Shape, k: Shape, dtype: torch.dtype, device: torch.device) -> SDPBackend:
        """Return the backend for queries [B, N, L, H] and keys [B, N, M, H]; call it before a graph is captured."""
        key = (q, k, dtype, device)
        if key not in self._chosen:
            self._chosen[key] = self._choose(q, k, dtype, device)
        return self._chosen[key]

    def _choose(self, q: Shape, k: Shape, dtype: torch.dtype, device: torch.device) -> SDPBackend:
        possible = backend_seconds(q, k, dtype, device, self.time_backend)
        chosen = choose(possible)
        if self.agree is not None:
            chosen = getattr(SDPBackend, self.agree(f"attention {q} {k} {dtype}", chosen.name))
        listed = ", ".join(f"{backend.name} {1e3 * seconds:.2f} ms" for backend, seconds in possible.items())
        log.info("attention %s x %s: %s of %s", list(q), list(k), chosen.name, listed)
        return chosen
