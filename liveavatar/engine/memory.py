"""Memory of the processes of a job while they render: read, put into words, and warned of before it runs out.

In GB of 2^30 bytes. What a process can still take of its GPU is what nobody uses and what its allocator holds for
later, within its own limit (`--leave_memory`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from liveavatar.hardware import GB, host_memory_gb

if TYPE_CHECKING:
    import torch

GPU_LEFT_GB = 0.5  # less: the next job of another size, or another program, ends in an error
HOST_LEFT_GB, HOST_LEFT_SHARE = 2.0, 0.1  # less than both: the system soon ends processes
STATM = Path("/proc/self/statm")


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """Memory of one process, and of the machine and the GPU that it shares with others; zeros: no GPU."""

    process: float  # of the process on the host
    host_used: float  # of its machine, or its container
    host_total: float
    gpu_used: float = 0.0  # by all programs
    gpu_total: float = 0.0
    gpu_left: float = 0.0  # that this process can still take


def read_memory(device: "torch.device") -> MemoryReading:
    """Read the memory of this process, which computes on `device`."""
    import torch

    from liveavatar.engine.device import memory_share

    used, total = host_memory_gb()
    process = process_gb()
    if device.type != "cuda":
        return MemoryReading(process, used, total)
    free, installed = torch.cuda.mem_get_info(device)
    allocated = torch.cuda.memory_allocated(device)
    spare = torch.cuda.memory_reserved(device) - allocated
    limit = memory_share(device) * installed
    left = min(free + spare, limit - allocated)
    return MemoryReading(process, used, total, (installed - free) / GB, installed / GB, max(0.0, left) / GB)


def process_gb() -> float:
    """Return the memory of this process on the host, without what is swapped out."""
    import resource

    try:
        return int(STATM.read_text().split()[1]) * resource.getpagesize() / GB
    except (OSError, ValueError, IndexError):  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB


def in_words(readings: Sequence[MemoryReading]) -> str:
    """Say what the ranks of a job use: "1.2 GB, GPU 21.3 of 24.0 GB; machine 3.1 of 16.0 GB"."""
    if not readings:
        return ""
    parts = []
    for rank, one in enumerate(readings):
        gpu = f", GPU {one.gpu_used:.1f} of {one.gpu_total:.1f} GB" if one.gpu_total else ""
        parts.append(f"{f'rank {rank}: ' * (len(readings) > 1)}{one.process:.1f} GB{gpu}")
    fullest = max(readings, key=lambda one: one.host_used / one.host_total)
    return "; ".join([*parts, f"machine {fullest.host_used:.1f} of {fullest.host_total:.1f} GB"])


def shortages(readings: Sequence[MemoryReading]) -> dict[str, str]:
    """Warn of memory that is about to run out: what is short, and one line for the user."""
    warnings = {}
    for rank, one in enumerate(readings):
        if one.gpu_total and one.gpu_left < GPU_LEFT_GB:
            warnings[f"gpu {rank}"] = (
                f"the GPU of rank {rank} is nearly full: {one.gpu_used:.1f} of {one.gpu_total:.1f} GB are in use, and "
                f"{one.gpu_left:.1f} GB are left to the render; end other programs on it, or render smaller or with "
                "--fp8 next time"
            )
        left = one.host_total - one.host_used
        if left < min(HOST_LEFT_GB, HOST_LEFT_SHARE * one.host_total):
            warnings["host"] = (
                f"the memory of the machine is nearly full: {one.host_used:.1f} of {one.host_total:.1f} GB are in use, "
                f"{one.process:.1f} GB by rank {rank}; end other programs before the system ends this one"
            )
    return warnings
