"""Supervision of one job on an engine: start the processes, watch them, revive the job when they are lost.

One loop serves every kind of engine. It sees an engine as a few calls (`EngineCalls`, `JobCalls`) and the cluster as a
head that can go away (`ClusterHead`), so nothing here knows Ray.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from liveavatar.errors import CapacityError, Interrupted
from liveavatar.render.job import Progress, RenderJob, RenderResult
from tasks.cluster.interruption import Interruption

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25  # between two looks at the progress
MAX_REVIVALS = 3  # losses of its engine that one job survives


class EngineLost(Exception):
    """A process of the engine is gone or hangs, or it reports the loss of another."""


class HeadLost(Exception):
    """The head of the cluster does not answer any more."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One look at a running job."""

    alive: bool = False  # whether the engine answered since the last look
    progress: Progress | None = None
    result: RenderResult | None = None  # once the job has ended


class JobCalls(Protocol):
    """A job that an engine is rendering. Every method may raise `EngineLost`, or the job's own error."""

    def poll(self, seconds: float) -> Answer:
        """Wait at most so long for an answer or the end."""

    def stop(self) -> None:
        """Ask for the end of the job at its next block."""

    def result(self, seconds: float) -> RenderResult:
        """Wait for the end.

        Raises:
            TimeoutError: it did not come within so many seconds.
        """


class EngineCalls(Protocol):
    """The processes of one engine."""

    @property
    def name(self) -> str:
        """Name for messages."""

    @property
    def alternative(self) -> str:
        """Another way to render what does not fit, for messages; may be empty."""

    def load(self) -> float:
        """Wait until the processes answer and have the model loaded; return the seconds that loading took.

        Raises:
            EngineLost: a process ended meanwhile.
            CapacityError: a process does not start.
        """

    def begin(self, job: RenderJob) -> JobCalls:
        """Render a job."""

    def recycle(self) -> None:
        """End what is left of the processes after a loss, so that another start gives a working engine."""

    def end(self) -> None:
        """End the processes for good."""


class ClusterHead(Protocol):
    """The head of the cluster."""

    @property
    def interruption(self) -> Interruption:
        """The end of the job before it is done."""

    @property
    def stop_seconds(self) -> float:
        """Seconds that an interrupted job may take to its next block."""

    def check(self) -> None:
        """Look whether it is there, and whether the job may go on.

        Raises:
            HeadLost: it is not.
            KeyboardInterrupt: the job was interrupted in another thread.
        """

    def recover(self) -> None:
        """Replace a lost head.

        Raises:
            Interrupted: it is not ours to replace.
        """


def supervise(
    start: Callable[[], EngineCalls],
    head: ClusterHead,
    job: RenderJob,
    limit_s: float,
    on_progress: Callable[[Progress], None],
    on_loaded: Callable[[float], None],
) -> RenderResult:
    """Render a job, resuming it from its last snapshot when its engine or the head of the cluster is lost.

    Args:
        start: finds the resident engine, or starts one; raises `HeadLost` when there is no head to ask.
        head: of the cluster.
        job: what to render.
        limit_s: an engine that does not answer for so many seconds counts as lost.
        on_progress: called with every new progress, in this thread.
        on_loaded: called after every start with the seconds that loading the model took.

    Raises:
        Interrupted: Ctrl-C; the job can be resumed.
        CapacityError: engine or head were lost more than `MAX_REVIVALS` times.
        LiveAvatarError: what the job itself raised.
    """
    losses = 0
    while True:
        try:
            engine = start()
            on_loaded(engine.load())
            return _watch(engine, engine.begin(job), head, limit_s, on_progress)
        except HeadLost as e:
            head.interruption.check()
            losses += 1
            if losses > MAX_REVIVALS:
                raise CapacityError(f"{e}, {losses} times; see `liveavatar doctor`") from e
            head.recover()
        except EngineLost as e:
            head.interruption.check()
            losses += 1
            engine.recycle()
            if losses > MAX_REVIVALS:
                raise CapacityError(
                    f"{engine.name} was lost {losses} times on this job ({e}); if it does not fit in memory, see "
                    f"`liveavatar plan` and `liveavatar doctor`, then run again with --resume{engine.alternative}"
                ) from e
            log.warning("%s was lost; the job resumes from the last snapshot", engine.name)
            log.debug("%s was lost: %s", engine.name, e)
        job = replace(job, resume=True)


def _watch(
    engine: EngineCalls, running: JobCalls, head: ClusterHead, limit_s: float, on_progress: Callable[[Progress], None]
) -> RenderResult:
    """Wait for a job and pass on its progress; Ctrl-C ends it at the next block."""
    shown: Progress | None = None
    answered = time.monotonic()
    try:
        while True:
            head.check()
            with head.interruption.unwrapped(EngineLost, HeadLost):
                answer = running.poll(POLL_SECONDS)
            if answer.result is not None:
                return answer.result
            if answer.alive:
                answered = time.monotonic()
            elif time.monotonic() - answered > limit_s:
                raise EngineLost(f"no answer for {limit_s:.0f} s")
            if answer.progress is not None and answer.progress != shown:
                shown = answer.progress
                on_progress(shown)
    except KeyboardInterrupt:
        running.stop()
        try:
            return running.result(head.stop_seconds)  # it may have been at its last block
        except (EngineLost, TimeoutError) as e:
            engine.end()
            raise Interrupted("stopped; run the same command with --resume to go on") from e
