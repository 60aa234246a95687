"""Calls to the processes of an engine through Ray: waiting for them, their errors, a running job, a killed process."""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from liveavatar.errors import LiveAvatarError
from liveavatar.render.job import RenderJob, RenderResult
from tasks.cluster.callers import this_caller
from tasks.cluster.gpus import GpuLost
from tasks.cluster.supervision import POLL_SECONDS, Answer, ClusterHead, EngineLost


@dataclass(frozen=True, slots=True)
class Process:
    """A process somewhere in the cluster."""

    node: str  # id of its machine in the cluster
    pid: int

    @classmethod
    def current(cls) -> "Process":
        """Find the process of an actor, from inside it."""
        return cls(str(ray.get_runtime_context().get_node_id()), os.getpid())

    def kill(self) -> None:
        """Kill it where it is; Ray would ask it to end itself, and a stopped process never hears that."""
        if self.node == ray.get_runtime_context().get_node_id():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            return
        there = NodeAffinitySchedulingStrategy(self.node, soft=False)
        ray.remote(os.kill).options(num_cpus=0, scheduling_strategy=there).remote(self.pid, signal.SIGKILL)


def results(references: list[Any], seconds: float | None, *, any_error_is_a_loss: bool) -> list[Any]:
    """Wait for the results of calls; an error of the called code comes out as itself.

    Args:
        references: of the calls.
        seconds: to wait at most; None waits on.
        any_error_is_a_loss: whether errors that users do not know count as the loss of the engine: in a group they
            are most likely the trace of another rank's loss.

    Raises:
        EngineLost: a process or its GPU is lost.
        TimeoutError: they take longer.
    """
    try:
        return list(ray.get(references, timeout=seconds))
    except RayTaskError as e:
        if isinstance(e.cause, GpuLost):
            raise EngineLost(f"its GPU is lost, {e.cause}") from e
        if any_error_is_a_loss and not isinstance(e.cause, LiveAvatarError | ImportError):
            raise EngineLost(f"{type(e.cause).__name__}: {e.cause}") from e
        raise e.cause from e
    except RayActorError as e:
        lines = str(e).strip().splitlines()
        if e.actor_init_failed and "MemoryError" not in lines[-1]:
            raise RuntimeError(f"the process of an engine cannot start: {lines[-1]}") from e
        raise EngineLost(lines[0]) from e


def await_results(references: list[Any], head: ClusterHead, seconds: float) -> None:
    """Return when calls have ended.

    Raises:
        HeadLost: the head went away meanwhile.
        KeyboardInterrupt: the job was interrupted.
        GetTimeoutError: they take longer.
    """
    deadline = time.monotonic() + seconds
    while ray.wait(references, num_returns=len(references), timeout=POLL_SECONDS)[1]:
        head.check()
        if time.monotonic() > deadline:
            raise GetTimeoutError(f"no answer within {seconds:.0f} s")


class RayJob:
    """A job under way: one actor renders it, the other ranks of a group serve. See `supervision.JobCalls`."""

    def __init__(self, owner: ActorHandle, others: list[ActorHandle], job: RenderJob) -> None:
        self.owner, self.digest = owner, job.digest
        self.in_group = bool(others)
        self.serving: list[Any] = [actor.serve.remote() for actor in others]
        self.running: Any = owner.render.remote(job, this_caller())
        self._question: Any = owner.progress.remote(job.digest)
        self._gpu: Any = None  # the question whether it hangs, until it is answered

    def poll(self, seconds: float) -> Answer:
        """Wait at most so long for progress or the end."""
        if self._question is None:
            time.sleep(seconds)
            self._question = self.owner.progress.remote(self.digest)
        asked = [] if self._gpu is None else [self._gpu]
        done, _ = ray.wait([self.running, *asked, self._question, *self.serving], num_returns=1, timeout=seconds)
        if self.running in done:
            return Answer(alive=True, result=self.result(None))
        if self._gpu in done:
            (hangs,) = self._results([self._gpu], None)
            self._gpu = None
            return Answer(alive=True, gpu_hangs=hangs)
        for finished in [reference for reference in self.serving if reference in done]:
            self._results([finished], None)
            self.serving.remove(finished)
        if self._question not in done:
            return Answer()
        (progress,) = self._results([self._question], None)
        self._question = None  # asked again after a pause
        return Answer(alive=True, progress=progress)

    def ask_gpu(self, seconds: float) -> None:
        """Ask whether the GPU finishes what it computes. In a group the other ranks notice that it does not."""
        if self._gpu is None and not self.in_group:
            self._gpu = self.owner.gpu_hangs.remote(seconds)

    def stop(self) -> None:
        """Ask for the end of the job at its next block."""
        self.owner.stop.remote(self.digest)

    def result(self, seconds: float | None) -> RenderResult:
        """Wait for the end."""
        return cast(RenderResult, self._results([self.running], seconds)[0])

    def ended(self) -> bool:
        """Tell if the job has ended, well or not."""
        return bool(ray.wait([self.running], timeout=0)[0])

    def _results(self, references: list[Any], seconds: float | None) -> list[Any]:
        return results(references, seconds, any_error_is_a_loss=self.in_group)
