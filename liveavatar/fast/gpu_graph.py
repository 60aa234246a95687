"""CUDA graphs of work on fixed buffers: recorded at the second call, replayed from then on.

Here the caller owns the buffers. `liveavatar.training.graphs` records functions of tensors, one graph for each set of
input shapes, and copies inputs and outputs.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch

log = logging.getLogger(__name__)


class RecordedGraph:
    """Function without arguments whose kernels are recorded at its second call and replayed from then on.

    Graphs of the same pool or recorded on the same stream must not run side by side: they share memory.
    """

    def __init__(self, work: Callable[[], object], enabled: bool, pool: Any = None, stream: Any = None) -> None:
        self.work, self.enabled, self.pool, self.stream = work, enabled, pool, stream
        self.graph: torch.cuda.CUDAGraph | None = None
        self._warm = False

    def __call__(self) -> None:
        """Run it on the current stream."""
        if self.graph is not None:
            self.graph.replay()
        elif self.enabled and self._warm:
            self._record()
        else:
            self.work()
            self._warm = True

    def _record(self) -> None:
        self.graph = self._recording()
        if self.graph is None:
            self.enabled = False
            torch.cuda.empty_cache()  # what the recording had taken until then: there may be no room beside it
            self.work()
        else:
            self.graph.replay()

    def _recording(self) -> "torch.cuda.CUDAGraph | None":
        """Record the graph; None where that fails, and then nothing is left of it."""
        current = torch.cuda.current_stream()
        current.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may go on with what they do: one of them sends what was made before. A recording that
            # fails leaves its stream the current one, hence the outer context.
            with (
                torch.cuda.stream(current),
                torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"),
            ):
                self.work()
        except RuntimeError as e:
            log.warning("CUDA graphs are off, kernels are launched one by one: %s", str(e).splitlines()[0])
            return None
        return graph
