"""Copies between host and device on a CUDA stream of their own, and host memory that a GPU reads by itself.

On a CPU every copy is made at once. A `Mark` is a point in a stream's work; None has always passed.
"""

import logging
import weakref
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from liveavatar.engine.clock import side_stream
from liveavatar.hardware import GB, available_gb

log = logging.getLogger(__name__)

Mark = torch.cuda.Event | None

_LEFT_GB = 2.0  # of host memory that pinning leaves to the system, which cannot move what is pinned


class Copies:
    """Copies in one direction, in order; work on the current stream goes on meanwhile."""

    def __init__(self, device: torch.device, use: str) -> None:
        self.device = device
        self.stream = side_stream(device, use)

    def begin(self, copy: Callable[[], None], after: Iterable[Mark]) -> Mark:
        """Queue a copy that waits for marks; return the mark behind it."""
        if self.stream is None:
            copy()
            return None
        for mark in after:
            if mark is not None:
                self.stream.wait_event(mark)
        with torch.cuda.stream(self.stream):
            copy()
        done = torch.cuda.Event()
        done.record(self.stream)
        return done

    def mark(self) -> Mark:
        """Mark what has been queued on the current stream."""
        if self.stream is None:
            return None
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        return event

    def wait(self, mark: Mark) -> None:
        """Let the current stream wait for a mark."""
        if mark is not None:
            torch.cuda.current_stream(self.device).wait_event(mark)

    def keep(self, *buffers: Tensor) -> None:
        """Let the memory of buffers on the device not be given away while a copy of them is under way."""
        if self.stream is not None:
            for buffer in buffers:
                buffer.record_stream(self.stream)

    def settle(self) -> None:
        """Wait until every copy is made."""
        if self.stream is not None:
            self.stream.synchronize()


class HostMemory:
    """Bytes on the host, pinned where there is enough, so that copies of them run beside the kernels."""

    def __init__(self, num_bytes: int, device: torch.device) -> None:
        room = available_gb()
        self.bytes = torch.zeros(num_bytes, dtype=torch.uint8)
        self.pinned = False
        if device.type != "cuda":
            return
        if num_bytes / GB + _LEFT_GB <= room:
            self.pinned = pin(self.bytes, device)
        if self.pinned:
            weakref.finalize(self, unpin, self.bytes, device)
        else:
            log.warning(
                "%.1f GB of host memory could not be pinned, %.1f GB are free: copies to the GPU will be slow",
                num_bytes / GB,
                room,
            )


def pin(host: Tensor, device: torch.device) -> bool:
    """Pin memory where it lies, for what PyTorch pins is rounded up to a power of two; return whether it could be."""
    with torch.cuda.device(device):
        failed = int(torch.cuda.cudart().cudaHostRegister(host.data_ptr(), host.numel(), 0))
        if failed:
            try:
                torch.zeros(1, device=device)
            except RuntimeError as e:  # the next kernel reports what has failed before, once
                log.debug("pinning failed: %s", e)
        return not failed


def unpin(host: Tensor, device: torch.device) -> None:
    """Give pinned memory back, once no copy of it is under way."""
    torch.cuda.synchronize(device)
    torch.cuda.cudart().cudaHostUnregister(host.data_ptr())
