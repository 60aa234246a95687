"""A resident Ray actor that holds a model, and the engine host for jobs on one such actor.

One *engine actor* per model and device keeps the weights loaded and renders one job at a time. It stays in its cluster
for the next job. When its process dies, Ray starts it anew, and the job resumes from its last snapshot
(`tasks.cluster.supervision`). Nothing here knows how a block is made; that is `liveavatar.render.job`.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError

from liveavatar.errors import CapacityError, LiveAvatarError, one_line
from liveavatar.hardware import cores
from liveavatar.isolation.worker import die_with_parent
from liveavatar.render.job import Progress, RenderJob, RenderResult
from tasks.cluster.callers import Call
from tasks.cluster.calls import Process, RayJob, await_results, results
from tasks.cluster.gpus import GPU_ORDER, GpuLost, gpu_lost
from tasks.cluster.head import NAMESPACE, HeadWatch, num_gpus
from tasks.cluster.replicas import GpuTaken, NoGpuLeft
from tasks.cluster.room import gpu_is_free, limit_memory, make_room
from tasks.cluster.supervision import POLL_SECONDS, EngineLost

log = logging.getLogger(__name__)

START_SECONDS = 180.0  # for an actor's process to come up, its imports included
_NO_ROOM = (
    "there is no memory for the model: another program may hold it, see `liveavatar doctor`, or `liveavatar plan`"
)
HEALTH_SECONDS = 120.0  # longer than a stopped process usually stays stopped
DEATH_SECONDS = 30.0  # until Ray has noticed a killed process
_ANSWERS = "answers"  # threads of an actor for questions: jobs that wait for their turn take none of them

F = TypeVar("F", bound=Callable[..., Any])


def answers(method: F) -> F:
    """Mark a method of an actor that answers while its jobs wait for their turn."""
    return cast(F, ray.method(concurrency_group=_ANSWERS)(method))


def actor_class(kind: type) -> Any:
    """Make the Ray class of an engine's actors."""
    return cast(Any, ray.remote)(concurrency_groups={_ANSWERS: 4})(kind)  # its types do not know the option


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSpec:
    """A model and how it is loaded: two equal specs share an actor."""

    model_dir: Path
    version: str  # digest of the model and of the engine's code: a changed one gets an actor of its own
    device: str = "auto"
    dtype: str = "auto"
    fp8: bool = False  # linear layers in 8 bits
    offload: bool = False  # layers of the transformer wait in host memory
    ranks: int = 1  # processes that share the denoise steps; more than one are a `tasks.cluster.group`
    own_decoder: bool = False  # whether the last of them only decodes
    layers: tuple[int, ...] = ()  # of the transformer that each of them keeps; none: each keeps all
    leave_gb: float = 0.0  # of its GPU's memory, for other programs
    replica: int = 0  # number of this engine among several with the same model
    one_of_several: bool = False  # another of them may take its job
    limit_s: float = HEALTH_SECONDS  # a process that does not answer for so long counts as hung


def load_whole(spec: EngineSpec) -> Any:
    """Load the whole model of a spec."""
    from liveavatar.load import load_engine

    return load_engine(spec.model_dir, device=spec.device, dtype=spec.dtype, fp8=spec.fp8, offload=spec.offload)


@contextmanager
def _naming_a_lost_gpu() -> Iterator[None]:
    """Raise `GpuLost` for an error with which the GPU of this process was lost."""
    try:
        yield
    except LiveAvatarError:
        raise
    except Exception as e:
        if not gpu_lost():
            raise
        log.exception("the GPU of this process is lost")
        raise GpuLost(f"{type(e).__name__}: {one_line(str(e))}") from e


class EngineActor:
    """A loaded model in a process of its own; it renders one job at a time."""

    def __init__(self, spec: EngineSpec, num_threads: int, load: Callable[[EngineSpec], Any] = load_whole) -> None:
        import torch

        die_with_parent()
        torch.set_num_threads(num_threads)
        self.spec, self._load = spec, load
        self._engine: Any = None
        self._one_job, self._loading = threading.Lock(), threading.Lock()
        self._progress: dict[str, Progress] = {}  # of unfinished jobs, by digest
        self._calls: dict[Call, RenderJob] = {}  # unfinished ones

    def load(self) -> float:
        """Load the model unless it is loaded; return the seconds it took.

        Raises:
            CapacityError: there is no memory for it.
        """
        import torch

        started = time.perf_counter()
        with self._loading, _naming_a_lost_gpu():
            if self._engine is None:
                limit_memory(self.spec.device, self.spec.leave_gb)
                try:
                    self._engine = self._load(self.spec)
                except (MemoryError, torch.OutOfMemoryError) as e:
                    raise CapacityError(f"{_NO_ROOM} ({str(e).strip().splitlines()[0]})") from e
        return time.perf_counter() - started

    def render(self, job: RenderJob, caller: str | None = None) -> RenderResult:
        """Render a job with `liveavatar.render.job.run_job`, as long as its caller lives.

        A caller locks its job in the store: a second call for the same work folder says that the first caller is gone.

        Args:
            job: what to render.
            caller: of the job, see `callers.this_caller`; None: it is not watched.

        Raises:
            Interrupted: it was stopped, its caller is gone, or another one has taken it over; it can be resumed.
        """
        with Call(caller) as call:
            for earlier, other in list(self._calls.items()):
                if other.work_dir == job.work_dir:
                    earlier.end("another caller goes on with it")
            self._calls[call] = job
            try:
                return self._render(job, call)
            finally:
                del self._calls[call]

    def _render(self, job: RenderJob, call: Call) -> RenderResult:
        import torch

        from liveavatar.render.job import run_job

        def note(progress: Progress) -> None:
            self._progress[job.digest] = progress

        with self._one_job:
            call.check()
            self.load()
            try:
                with _naming_a_lost_gpu():
                    return run_job(self._engine, job, note, lambda: call.ended)
            except (MemoryError, torch.OutOfMemoryError):
                log.exception("out of memory; the process ends, which frees what it holds")
                os._exit(1)
            finally:
                self._progress.pop(job.digest, None)

    def serve(self, part: Callable[[], bool]) -> bool:
        """Take part in a job that another process renders; it waits for its turn as `render` does."""
        with self._one_job:
            self.load()
            with _naming_a_lost_gpu():
                return part()

    @answers
    def progress(self, digest: str) -> Progress | None:
        """Return the progress of a job, None when it does not run; also the health check."""
        return self._progress.get(digest)

    @answers
    def gpu_hangs(self, seconds: float) -> bool:
        """Tell if the GPU does not finish within so many seconds what it computes, or fails."""
        return gpu_lost(seconds)

    @answers
    def stop(self, digest: str) -> None:
        """End a job at its next block."""
        for call, job in list(self._calls.items()):
            if job.digest == digest:
                call.end("it was stopped")

    @answers
    def is_idle(self) -> bool:
        """Tell if no job is rendered and no model is loaded right now."""
        return not (self._one_job.locked() or self._loading.locked())

    @answers
    def node_and_pid(self) -> Process:
        """Find the process of this actor."""
        return Process.current()


def spec_name(spec: EngineSpec) -> str:
    """Name of a model on one kind of device, part of its actors' names."""
    left = f"-leaves{spec.leave_gb:g}" if spec.leave_gb else ""
    return f"{spec.version[:16]}-{spec.device}-{spec.dtype}{'-fp8' * spec.fp8}{'-offload' * spec.offload}{left}"


def actor_options(spec: EngineSpec) -> dict[str, Any]:
    """Return the Ray options that all actors of engines share."""
    threads = str(cores())
    return {
        "namespace": NAMESPACE,
        "lifetime": "detached",  # until its cluster ends; a local cluster ends with the driver
        "num_cpus": 0,  # jobs queue at the actor; reserving cores would only keep a second model out
        "num_gpus": int(on_gpus(spec)),
        "max_concurrency": 4,
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **GPU_ORDER}},
    }


def on_gpus(spec: EngineSpec) -> bool:
    """Tell if the actors of a spec take a GPU each."""
    return spec.device != "cpu" and num_gpus() >= 1


def engine_name(spec: EngineSpec) -> str:
    """Name the resident actor of a spec."""
    return f"engine-{spec_name(spec)}" + (f"-{spec.replica}" if spec.replica else "")


def engine_actor(spec: EngineSpec) -> ActorHandle:
    """Get the resident actor of a spec; start it when there is none.

    Raises:
        GpuTaken: it is one of several, and other jobs have all GPUs.
    """
    name = engine_name(spec)
    if on_gpus(spec) and name not in ray.util.list_named_actors():
        make_room(1)
        if spec.one_of_several and not gpu_is_free():
            raise GpuTaken("another job has the GPU of an engine", "run it again once that job has ended")
    remote = actor_class(EngineActor).options(name=name, get_if_exists=True, max_restarts=-1, **actor_options(spec))
    return cast(ActorHandle, remote.remote(spec, cores()))


class ActorCalls:
    """Calls to the resident actor. See `supervision.EngineCalls`."""

    name = "the engine process"
    alternative = ""

    def __init__(self, spec: EngineSpec, head: HeadWatch) -> None:
        self.head, self.actor = head, engine_actor(spec)
        self._process: Process | None = None
        self._job: RayJob | None = None

    def load(self) -> float:
        """Wait for the process and the model."""
        try:
            self._await_answer()
            loading: Any = self.actor.load.remote()
            await_results([loading], self.head, math.inf)
            seconds, self._process = results(
                [loading, self.actor.node_and_pid.remote()], None, any_error_is_a_loss=False
            )
        except RayActorError as e:
            raise EngineLost(str(e).strip().splitlines()[0]) from e
        return float(seconds)

    def begin(self, job: RenderJob) -> RayJob:
        """Render a job."""
        self._job = RayJob(self.actor, [], job)
        return self._job

    def recycle(self) -> None:
        """Kill a process that hangs; Ray starts another."""
        if self._process is None or self._job is None or self._job.ended():
            return
        self._process.kill()
        ray.wait([self._job.running], timeout=DEATH_SECONDS)

    def end(self) -> None:
        """End the actor, its process even when it is stopped."""
        ray.kill(self.actor)
        if self._process is not None:
            self._process.kill()

    def _await_answer(self) -> None:
        """Return when the actor answers; one that is being restarted refuses calls for a second or two."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                answer: Any = self.actor.progress.remote("")
                await_results([answer], self.head, START_SECONDS)
                ray.get(answer)
                return
            except ActorUnavailableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)
            except GetTimeoutError as e:
                raise NoGpuLeft(
                    f"the engine process did not start within {START_SECONDS:.0f} s",
                    "the machine may be out of memory or its GPU taken: see `liveavatar doctor`",
                ) from e
