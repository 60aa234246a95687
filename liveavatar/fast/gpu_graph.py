"""Recording of CUDA graphs, and graphs of work on fixed buffers: recorded at the second call, replayed from then on.

Here the caller owns the buffers. `liveavatar.training.graphs` records functions of tensors, one graph for each set of
input shapes, and copies inputs and outputs.
"""

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class _Collection:
    """Python's collection of garbage, which any number of threads may hold up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held, self._enabled = 0, False

    @contextmanager
    def held_up(self) -> Iterator[None]:
        """Collect nothing within: a graph of an earlier job that is let go in a recording ends the recording."""
        with self._lock:
            if not self._held:
                self._enabled = gc.isenabled()
                gc.disable()
            self._held += 1
        try:
            yield
        finally:
            with self._lock:
                self._held -= 1
                if not self._held and self._enabled:
                    gc.enable()


_COLLECTION = _Collection()  # the interpreter has one


def record(
    work: Callable[[], Result], pool: Any = None, stream: Any = None, on_failure: Callable[[], object] = lambda: None
) -> "tuple[torch.cuda.CUDAGraph, Result] | None":
    """Record the kernels of `work`.

    Args:
        work: what is recorded; it has been called before, and the GPU has done what it reads.
        pool: memory pool of the graph; None for one of its own.
        stream: on which it is recorded; None for PyTorch's own.
        on_failure: cleans up after a failed recording, while its graph is still there.

    Returns:
        the graph and the work's result, whose memory every replay writes; None, and a warning, where the work cannot
        be recorded: nothing is left of the graph then, and the current stream is as before.
    """
    current = torch.cuda.current_stream()
    graph = torch.cuda.CUDAGraph()
    try:
        # Other threads may go on with what they do: one sends what was made before, the collectives' watchdog polls
        # events. A recording that fails leaves its stream the current one, hence the outer context.
        with (
            _COLLECTION.held_up(),
            torch.cuda.stream(current),
            torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
        ):
            result = work()
    except RuntimeError as e:
        log.warning("CUDA graphs are off, kernels are launched one by one: %s", str(e).splitlines()[0])
        on_failure()
        return None
    return graph, result


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

    def forget(self) -> None:
        """Give the graph's memory back and run the work as it is from now on."""
        self.enabled = False
        if self.graph is not None:
            torch.cuda.synchronize()
            self.graph = None
        torch.cuda.empty_cache()

    def _record(self) -> None:
        torch.cuda.current_stream().synchronize()
        recorded = record(self.work, self.pool, self.stream)
        if recorded is None:
            self.forget()  # what the recording had taken until then: there may be no room beside it
            self.work()
        else:
            self.graph = recorded[0]
            self.graph.replay()
