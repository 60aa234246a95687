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
# Without a new block for so many seconds before the first one, later for as many times its slowest block and at least
# so many seconds, an engine's GPU is asked whether it computes.
FIRST_SECONDS, BLOCK_TIMES, STALL_SECONDS = 300.0, 5, 60.0


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
    gpu_hangs: bool = False  # the GPU was asked, and does not finish what it computes


class JobCalls(Protocol):
    """A job that an engine is rendering. Every method may raise `EngineLost`, or the job's own error."""

    def poll(self, seconds: float) -> Answer:
        """Wait at most so long for an answer or the end."""

    def ask_gpu(self, seconds: float) -> None:
        """Ask whether the GPU finishes within so many seconds what it computes; a later `poll` brings the answer."""

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


class _Pace:
    """Time since the last sign of progress of a job, against that of its slowest block."""

    def __init__(self) -> None:
        self._moved = self._asked = time.monotonic()
        self._slowest: float | None = None  # block but the first, which waits for kernels to be compiled

    @property
    def limit_s(self) -> float:
        """Seconds without progress after which the GPU is asked."""
        return FIRST_SECONDS if self._slowest is None else max(STALL_SECONDS, BLOCK_TIMES * self._slowest)

    def move(self) -> None:
        """Note progress."""
        now = time.monotonic()
        self._slowest = 0.0 if self._slowest is None else max(self._slowest, now - self._moved)
        self._moved = self._asked = now

    def asks(self) -> bool:
        """Tell if the GPU is to be asked now; then not again before as much time has passed once more."""
        now = time.monotonic()
        due = now - self._asked > self.limit_s
        if due:
            self._asked = now
        return due

    @property
    def still_s(self) -> float:
        """Seconds since the last progress."""
        return time.monotonic() - self._moved


def _watch(
    engine: EngineCalls, running: JobCalls, head: ClusterHead, limit_s: float, on_progress: Callable[[Progress], None]
) -> RenderResult:
    """Wait for a job and pass on its progress; Ctrl-C ends it at the next block."""
    shown: Progress | None = None
    answered, pace, hangs = time.monotonic(), _Pace(), False
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
                pace.move()
                hangs = False
                on_progress(shown)
            elif answer.gpu_hangs:
                hangs = True  # unless the next answer brings a block that came meanwhile
            elif hangs and answer.alive:
                raise EngineLost(f"its GPU hangs: no block for {pace.still_s:.0f} s, and it finishes nothing")
            elif pace.asks():
                running.ask_gpu(pace.limit_s)
    except KeyboardInterrupt:
        running.stop()
        try:
            return running.result(head.stop_seconds)  # it may have been at its last block
        except (EngineLost, TimeoutError) as e:
            engine.end()
            raise Interrupted("stopped; run the same command with --resume to go on") from e
