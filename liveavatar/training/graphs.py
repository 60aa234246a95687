"""Work of a training step as CUDA graphs: thousands of small kernels launched at once.

A graph belongs to one set of input shapes (portrait and landscape batches have one each). Inputs are copied to fixed
addresses, outputs are copied out, random numbers are drawn by the caller, and what ranks exchange stays outside. On
the CPU, and where a recording fails, the same function runs kernel by kernel.
"""

import gc
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

EAGER_CALLS = 2  # before the recording: they compile, choose algorithms and fill caches

Shapes = tuple[tuple[tuple[int, ...], torch.dtype], ...]


@dataclass(slots=True)
class _Entry:
    """What is known of one set of input shapes."""

    inputs: tuple[Tensor, ...]
    calls: int = 0
    graph: torch.cuda.CUDAGraph | None = None
    output: Tensor | None = None


class Recorder:
    """The stream that work is warmed and recorded on, and the memory its graphs share.

    Graphs may share memory because they run one after another and their outputs are copied out at once.
    """

    def __init__(self, device: torch.device, enabled: bool) -> None:
        """`enabled` has an effect on CUDA devices only."""
        self.enabled = enabled and device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if self.enabled else None
        self.pool: Any = torch.cuda.graph_pool_handle() if self.enabled else None


class RecordedFunction:
    """A function of tensors that is recorded at its third call for each set of input shapes.

    It must read nothing but its inputs and tensors that stay where they are, wait for nothing, draw no random
    numbers, and enter and leave autocast by itself (or the weights' bf16 copies would be recorded once for all).
    """

    def __init__(self, work: Callable[..., Tensor], recorder: Recorder) -> None:
        self.work, self.recorder = work, recorder
        self._entries: dict[Shapes, _Entry] = {}

    @property
    def recordings(self) -> int:
        """Sets of shapes that are replayed by now."""
        return sum(e.graph is not None for e in self._entries.values())

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The function's value, a tensor of the caller's own."""
        if not self.recorder.enabled:
            return self.work(*inputs)
        key = tuple((tuple(t.shape), t.dtype) for t in inputs)
        if key not in self._entries:
            fixed = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in inputs)
            self._entries[key] = _Entry(tuple(fixed))
        entry = self._entries[key]
        # Before the recording too: what is compiled for the strides of these must not be compiled again.
        torch._foreach_copy_(entry.inputs, inputs)
        entry.calls += 1
        if entry.graph is None and entry.calls > EAGER_CALLS:
            self._record(entry)
        if entry.graph is None or entry.output is None:
            return self._run(entry.inputs)
        entry.graph.replay()
        return entry.output.clone()

    def _run(self, inputs: tuple[Tensor, ...]) -> Tensor:
        stream, current = self.recorder.stream, torch.cuda.current_stream()
        if stream is None or not self.recorder.enabled:
            return self.work(*inputs)
        # On the stream of the recording: what autograd ties to a stream must not be the default one.
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            value = self.work(*inputs)
        current.wait_stream(stream)
        value.record_stream(current)
        return value

    def _record(self, entry: _Entry) -> None:
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        gc.collect()  # an autograd graph that is still alive is tied to another stream
        torch.cuda.synchronize()
        try:
            # Only this thread's calls count: the collectives' watchdog polls events at any time.
            with torch.cuda.graph(
                graph, pool=self.recorder.pool, stream=self.recorder.stream, capture_error_mode="thread_local"
            ):
                output = self.work(*entry.inputs)
        except RuntimeError as e:
            log.warning("CUDA graphs are off, kernels are launched one by one: %s", str(e).splitlines()[0])
            self.recorder.enabled = False
            self._clean_up(current)
            return
        entry.graph, entry.output = graph, output

    def _clean_up(self, current: torch.cuda.Stream) -> None:
        """Undo what a recording that could not end leaves behind: its stream, its memory pool, its random state."""
        torch.cuda.set_stream(current)
        with suppress(RuntimeError, AttributeError):  # it may have been undone after all
            torch._C._cuda_endAllocateToPool(current.device_index, self.recorder.pool)
        with suppress(RuntimeError, AttributeError):
            generator = torch.cuda.default_generators[current.device_index]
            generator.graphsafe_set_state(generator.clone_state())
        torch.cuda.synchronize()
