"""Counters of all renders of a home: runs, blocks, stages, cache hits, deadline misses; and the speed of running ones.

They lie in one small file that every run adds to under a lock, every few seconds and at its end, so that they grow
across processes and restarts. `flows.serving.metrics` shows them. No render waits for them for long or fails with them.
"""

import os
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from filelock import FileLock, Timeout

from liveavatar import paths
from liveavatar.errors import CapacityError, InputError, Interrupted
from liveavatar.files import read_json, write_json
from tasks.events import Event, listening

FLUSH_SECONDS = 5.0  # between two writes while blocks are made
LOCK_SECONDS = 2.0  # to wait for another run that writes
FRESH_SECONDS = 60.0  # after which progress that nobody renewed counts for nothing

Counts = defaultdict[str, float]


class Tally:
    """Counts of one run that are not written yet."""

    def __init__(self) -> None:
        self._id = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._counts = Counts(float)
        self._progress: dict[str, Any] | None = None
        self._written = time.monotonic()
        self._done: int | None = None  # blocks of the render so far

    def hear(self, event: Event) -> None:
        """Count an event of the run."""
        if event.kind == "end":
            self._counts[f"stage/{event.stage}/{'cached' if event.cached else 'made'}"] += 1
            number = event.text.partition(" ")[0]
            with suppress(ValueError):
                self._counts[f"seconds/{event.stage}"] += float(number)
        elif event.kind == "progress":
            if event.stage == "render":
                begun = event.done - 1 if self._done is None else self._done  # blocks before a resume are not ours
                self._counts["blocks"] += max(0, event.done - begun)
                self._done = event.done
            memory = [asdict(reading) for reading in event.memory]
            self._progress = {"done": event.done, "total": event.total, "fps": event.fps, "memory": memory}
            if time.monotonic() - self._written > FLUSH_SECONDS:
                self.write()

    def judged(self, report: dict[str, Any]) -> None:
        """Count the verdict of a published run, and its frames when they were made now."""
        self._counts[f"runs/{report['status']}"] += 1
        if not report["stages"]["render"]["cached"]:
            self._counts["frames"] += report["video"]["num_frames"]
            self._counts["deadline_misses"] += report["timing"]["deadline_misses"]

    def failed(self, error: BaseException) -> None:
        """Count a run that ended with an error."""
        refused = isinstance(error, InputError | CapacityError)
        interrupted = isinstance(error, Interrupted) or not isinstance(error, Exception)
        self._counts[f"runs/{'refused' if refused else 'interrupted' if interrupted else 'error'}"] += 1

    def write(self, ended: bool = False) -> None:
        """Add the counts to the file; they are kept for the next time when it cannot be written."""
        self._written, path = time.monotonic(), paths.counters()
        with suppress(OSError, Timeout):
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock"), timeout=LOCK_SECONDS):
                counts, running = read_counters()
                for name, value in self._counts.items():
                    counts[name] += value
                running.pop(self._id, None)
                if self._progress is not None and not ended:
                    running[self._id] = {**self._progress, "at": time.time()}
                write_json(path, {"counts": counts, "running": running})
                self._counts.clear()


def read_counters() -> tuple[Counts, dict[str, dict[str, Any]]]:
    """Read the counters and the progress of renders under way; a damaged file counts as none."""
    try:
        content = read_json(paths.counters())
        counts = Counts(float, {str(name): float(value) for name, value in content["counts"].items()})
        fresh = {name: dict(job) for name, job in content["running"].items() if time.time() - job["at"] < FRESH_SECONDS}
        return counts, fresh
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Counts(float), {}


@contextmanager
def tallied() -> Iterator[Tally]:
    """Count the run inside the block."""
    tally = Tally()
    try:
        with listening(tally.hear):
            yield tally
    except BaseException as e:
        tally.failed(e)
        raise
    finally:
        tally.write(ended=True)
