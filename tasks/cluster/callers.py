"""Callers of an engine: processes whose jobs it renders, and which may be killed while it does.

A resident engine outlives its callers. Ray keeps a table of the processes that are connected to a cluster (its
"jobs") and notes at once, on every machine, when one has ended; one that is merely stopped stays alive there.
"""

import logging
import threading
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayError

from liveavatar.errors import Interrupted

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0  # between two looks at the table


def this_caller() -> str:
    """Name this process in the table of its cluster."""
    return str(ray.get_runtime_context().get_job_id())


def is_gone(caller: str) -> bool:
    """Tell if a caller has ended.

    Raises:
        RayError: the head of the cluster does not answer.
    """
    state: Any = ray._private.state
    return any(row["JobID"] == caller and row["IsDead"] for row in state.jobs())


class Call:
    """One call of `render`: it ends when somebody ends it, or when its caller has gone."""

    def __init__(self, caller: str | None) -> None:
        self._caller, self._why = caller, ""
        self._ended, self._returned = threading.Event(), threading.Event()

    def __enter__(self) -> "Call":
        if self._caller is not None:
            threading.Thread(target=self._watch, args=(self._caller,), daemon=True, name="caller").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._returned.set()

    @property
    def ended(self) -> bool:
        """True once it is to end."""
        return self._ended.is_set()

    def end(self, why: str) -> None:
        """Set the reason and its end, which comes at the next block."""
        self._why = why
        self._ended.set()

    def check(self) -> None:
        """Raise `Interrupted` once it is to end."""
        if self.ended:
            raise Interrupted(f"{self._why}; run the same command with --resume to go on")

    def _watch(self, caller: str) -> None:
        """Look at the caller until the call returns; a head that is away says nothing about it."""
        while not self._returned.wait(LOOK_SECONDS):
            try:
                gone = is_gone(caller)
            except (RayError, RuntimeError, OSError) as e:
                log.debug("the caller %s was not looked for: %s", caller, e)
                continue
            if gone:
                log.warning("the caller of a job has gone; the job ends at its next block and can be resumed")
                self.end("its caller has gone")
                return
