"""Which attention backend is fastest for a shape on this GPU: tried once for each, remembered."""

import logging
import warnings
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

log = logging.getLogger(__name__)

_CANDIDATES = (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)
_TRIES = 3
Shape = tuple[int, ...]
Agree = Callable[[str, str], str]  # a question and one's own answer -> the answer of all
_agree: list[Agree] = []


def agree(how: Agree | None) -> None:
    """Have processes that make one video take the same backends, so that they compute the same bits; None: alone."""
    _agree[:] = [] if how is None else [how]


def attend_rows(q_BNLH: Tensor, k_BNMH: Tensor, v_BNMH: Tensor) -> Tensor:
    """Softmax attention without mask, [B * L, N * H] contiguous."""
    if q_BNLH.device.type != "cuda":
        out = F.scaled_dot_product_attention(q_BNLH, k_BNMH, v_BNMH)
    else:
        with sdpa_kernel(best_backend(tuple(q_BNLH.shape), tuple(k_BNMH.shape), q_BNLH.dtype, q_BNLH.device)):
            out = F.scaled_dot_product_attention(q_BNLH, k_BNMH, v_BNMH)
    return out.transpose(1, 2).contiguous().view(-1, out.shape[1] * out.shape[3])


@lru_cache(maxsize=256)
def best_backend(q: Shape, k: Shape, dtype: torch.dtype, device: torch.device) -> SDPBackend:
    """Fastest backend for queries and keys of these shapes; must be asked for once before a graph is captured."""
    timed: dict[SDPBackend, float] = {}
    B, N, L, H = q
    # Laid out as in the transformer: queries token by token, keys head by head.
    query = torch.randn(B, L, N, H, dtype=dtype, device=device).transpose(1, 2)
    key, value = (torch.randn(k, dtype=dtype, device=device) for _ in range(2))
    for candidate in _CANDIDATES:
        seconds = _seconds(candidate, query, key, value)
        if seconds is not None:
            timed[candidate] = seconds
    best = min(timed, key=lambda b: timed[b], default=SDPBackend.MATH)
    if _agree:
        best = getattr(SDPBackend, _agree[0](f"attention {q} {k} {dtype}", best.name))
    listed = ", ".join(f"{b.name} {1e3 * s:.2f} ms" for b, s in timed.items())
    log.info("attention %s x %s: %s", list(q), list(k), listed)
    return best


def _seconds(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> float | None:
    def once() -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    try:
        with warnings.catch_warnings(), sdpa_kernel(backend):
            warnings.simplefilter("ignore")  # a backend that cannot do a shape says so, and why all others are off
            once()
            return gpu_seconds(once, _TRIES)
    except RuntimeError as e:
        log.debug("%s cannot do %s: %s", backend, tuple(q.shape), e)
        return None


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
