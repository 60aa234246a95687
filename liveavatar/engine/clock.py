"""Time marks on the CPU or a GPU's stream, asynchronous copies, and CUDA streams that last as long as the process."""

import functools
import time
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


def on_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU to a device; to a GPU without waiting for its queued kernels."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


@functools.cache
def side_stream(device: torch.device, use: str) -> Any:
    """Return the CUDA stream of a use, always the same one in a process; None on a CPU.

    PyTorch has 32 streams and hands them out in turn, so a new one for each caller would one day be shared by two.
    """
    return torch.cuda.Stream(device) if device.type == "cuda" else None


def mark(device: torch.device) -> Any:
    """Mark the current time: an event on the current stream of a GPU, or the clock."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds(marks: list[Any]) -> tuple[float, ...]:
    """Seconds between consecutive marks; waits for the last."""
    if isinstance(marks[0], float):
        return tuple(b - a for a, b in pairwise(marks))
    marks[-1].synchronize()
    return tuple(a.elapsed_time(b) / 1e3 for a, b in pairwise(marks))
