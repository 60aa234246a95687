"""Engines with the same model side by side, one a GPU or one a process: a job takes the first that is free."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from liveavatar.errors import CapacityError
from tasks.cluster.interruption import Interruption

log = logging.getLogger(__name__)

TAKEN_SECONDS = 180.0  # a GPU that other jobs have for so long is given up
PAUSE_SECONDS = 2.0  # between two tries of an engine

T = TypeVar("T")


class NoGpuLeft(CapacityError):
    """A GPU was lost, and no other is free for the job; or an engine does not start, for another job has its GPU."""

    def __init__(self, left: str, way_out: str) -> None:
        """Say what is left (`GpusLeft`), or what happened, and what to do."""
        super().__init__(f"{left}; {way_out}")
        self.left = left


class GpuTaken(NoGpuLeft):
    """An engine cannot start now, for another job has its GPU."""


class Replicas:
    """The engines that the jobs of a batch share; each has a number, and one job at a time."""

    def __init__(self, count: int) -> None:
        self.interruption = Interruption()  # of all the jobs
        self._kept = set(range(count))
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._giving_up = threading.Lock()
        for number in self._kept:
            self._free.put(number)

    def run(self, job: Callable[[int], T]) -> T:
        """Wait for a free engine, call a job with its number, and return what the job returns.

        An engine without a GPU, or one that does not start, is given up, and its job waits for another one. One whose
        GPU is another job's is tried again now and then, for `TAKEN_SECONDS`, while the job takes whichever is free.

        Raises:
            NoGpuLeft: the last engine has no GPU.
        """
        began: float | None = None  # when a GPU was found taken
        while True:
            self.interruption.check()
            with self._taken() as number:
                try:
                    return job(number)
                except NoGpuLeft as e:
                    if isinstance(e, GpuTaken) and began is None:
                        began = time.monotonic()
                        log.warning("%s; the job waits for it or for another engine", e.left)
                    waits = isinstance(e, GpuTaken) and time.monotonic() - (began or 0.0) < TAKEN_SECONDS
                    if not waits and not self._give_up(number):
                        raise
                    if not waits:
                        log.warning("%s; the batch goes on with %d of its engines", e.left, len(self._kept))
            if waits:
                time.sleep(PAUSE_SECONDS)

    @contextmanager
    def _taken(self) -> Iterator[int]:
        number = self._free.get()
        try:
            yield number
        finally:
            if number in self._kept:
                self._free.put(number)

    def _give_up(self, number: int) -> bool:
        """Let no other job have an engine; return False for the last one, which is kept."""
        with self._giving_up:
            if len(self._kept) == 1:
                return False
            self._kept.remove(number)
            return True
