"""Engines with the same model side by side, one a GPU or one a process: a job takes the first that is free."""

import queue
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.cluster.interruption import Interruption


class Replicas:
    """The engines that the jobs of a batch share; their numbers are handed out to one job at a time."""

    def __init__(self, count: int) -> None:
        self.interruption = Interruption()  # of all the jobs
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(count):
            self._free.put(number)

    @contextmanager
    def taken(self) -> Iterator[int]:
        """Wait for a free engine and hold its number inside the block."""
        number = self._free.get()
        try:
            yield number
        finally:
            self._free.put(number)
