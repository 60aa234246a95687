"""CUDA graphs of training steps: thousands of small kernels in one launch.

A graph belongs to one set of input shapes (portrait and landscape batches have one each). Inputs are copied to fixed
addresses, outputs are copied out, the caller draws random numbers, and communication between ranks stays outside. On
the CPU, and when recording fails, the same function runs kernel by kernel.
"""

import gc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from liveavatar.fast.gpu_graph import record

EAGER_CALLS = 2  # before the recording: they compile, choose algorithms and fill caches

Shapes = tuple[tuple[tuple[int, ...], torch.dtype], ...]


@dataclass(slots=True)
class _Entry:
    """Static inputs, graph and output of one set of input shapes."""

    inputs: tuple[Tensor, ...]
    calls: int = 0
    graph: torch.cuda.CUDAGraph | None = None
    output: Tensor | None = None


class Recorder:
    """CUDA stream for warm-up and recording, and the memory pool that the graphs share.

    Graphs may share memory because they run one after another and their outputs are copied out at once.
    """

    def __init__(self, device: torch.device, enabled: bool) -> None:
        """Create stream and pool; `enabled` has an effect on CUDA devices only."""
        self.enabled = enabled and device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if self.enabled else None
        self.pool: Any = torch.cuda.graph_pool_handle() if self.enabled else None


class RecordedFunction:
    """Function of tensors that is recorded at its third call for each set of input shapes.

    It may read only its inputs and tensors at fixed addresses, may not synchronise or draw random numbers, and must
    enter and leave autocast itself (otherwise the weights' bf16 copies would be recorded once for all).
    """

    def __init__(self, work: Callable[..., Tensor], recorder: Recorder) -> None:
        self.work, self.recorder = work, recorder
        self._entries: dict[Shapes, _Entry] = {}

    @property
    def recordings(self) -> int:
        """Number of sets of shapes with a recorded graph."""
        return sum(e.graph is not None for e in self._entries.values())

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Call the function, or replay its graph; return a new tensor."""
        if not self.recorder.enabled:
            return self.work(*inputs)
        key = tuple((tuple(t.shape), t.dtype) for t in inputs)
        if key not in self._entries:
            fixed = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in inputs)
            self._entries[key] = _Entry(tuple(fixed))
        entry = self._entries[key]
        # Before the recording, too, so that compiled functions see the strides of these inputs from the start.
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
        # On the stream of the recording, because autograd must not tie its nodes to the default stream.
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            value = self.work(*inputs)
        current.wait_stream(stream)
        value.record_stream(current)
        return value

    def _record(self, entry: _Entry) -> None:
        current = torch.cuda.current_stream()
        gc.collect()  # an autograd graph that is still alive is tied to another stream
        torch.cuda.synchronize()
        recorded = record(
            lambda: self.work(*entry.inputs),
            self.recorder.pool,
            self.recorder.stream,
            lambda: clean_up(current, self.recorder.pool),
        )
        if recorded is None:
            self.recorder.enabled = False
        else:
            entry.graph, entry.output = recorded


def clean_up(current: torch.cuda.Stream, pool: Any) -> None:
    """Restore memory pool and random state after a failed recording."""
    with suppress(RuntimeError, AttributeError):  # it may be restored already
        torch._C._cuda_endAllocateToPool(current.device_index, pool)
    with suppress(RuntimeError, AttributeError):
        generator = torch.cuda.default_generators[current.device_index]
        generator.graphsafe_set_state(generator.clone_state())
    torch.cuda.synchronize()
