"""Ray: who holds the model, and what happens when it dies. Ray is imported here, in `tasks.cluster.group` for engines
spread over processes, and in `tasks.cluster.head` for the cluster itself.

One *engine actor* per model and device keeps the weights loaded and renders one job at a time. The driver asks it
for progress while it renders, tells it to stop at the next block on Ctrl-C, and, when its process dies, lets Ray
start it anew and resumes the job from its last snapshot. The actor stays in its cluster for the next job.

Nothing here knows how a block is made; that is `liveavatar.render.job`.
"""

import contextlib
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from liveavatar.errors import CapacityError, Interrupted
from liveavatar.hardware import cores
from liveavatar.render.job import Progress, RenderJob, RenderResult
from tasks.cluster import interruption
from tasks.cluster.guardian import die_with_parent
from tasks.cluster.head import NAMESPACE, HeadLost, HeadWatch, connect, shut_down

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25  # between two looks at the progress
START_SECONDS = 180.0  # for an actor's process to come up, its imports included
HEALTH_SECONDS = 120.0  # longer than a stopped process usually stays stopped
STOP_SECONDS = 60.0  # what a running block may take to end after Ctrl-C
MAX_REVIVALS = 3  # deaths of the actor that one job survives


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSpec:
    """Which model on what: two equal specs share an actor."""

    model_dir: Path
    version: str  # digest of the model and of the engine's code: a changed one gets an actor of its own
    device: str = "auto"
    dtype: str = "auto"
    fp8: bool = False  # linear layers in 8 bits
    offload: bool = False  # layers of the transformer wait in host memory
    ranks: int = 1  # processes that share the denoise steps; more than one are a `tasks.cluster.group`
    own_decoder: bool = False  # whether the last of them decodes and nothing else
    replica: int = 0  # which of several actors with the same model
    limit_s: float = HEALTH_SECONDS  # without a sign of life for so long, a process counts as hung


class EngineActor:
    """A loaded model in a process of its own."""

    def __init__(self, spec: EngineSpec, num_threads: int) -> None:
        import torch

        die_with_parent()
        torch.set_num_threads(num_threads)
        self.spec = spec
        self._engine: Any = None
        self._one_job, self._loading = threading.Lock(), threading.Lock()
        self._progress: dict[str, Progress] = {}  # of unfinished jobs, by digest
        self._stopped: set[str] = set()

    def load(self) -> float:
        """Load the model if it is not there yet; returns the seconds it took."""
        from liveavatar.engine.engine import Engine

        started = time.perf_counter()
        if self._engine is None:
            self._engine = Engine.load(
                self.spec.model_dir,
                device=self.spec.device,
                dtype=self.spec.dtype,
                fp8=self.spec.fp8,
                offload=self.spec.offload,
            )
        return time.perf_counter() - started

    def render(self, job: RenderJob) -> RenderResult:
        """Render a job; see `liveavatar.render.job.run_job`."""
        import torch

        from liveavatar.render.job import run_job

        def note(progress: Progress) -> None:
            self._progress[job.digest] = progress

        with self._one_job:
            self.load()
            try:
                return run_job(self._engine, job, note, lambda: job.digest in self._stopped)
            except (MemoryError, torch.OutOfMemoryError):
                log.exception("out of memory; the process ends, which frees what it holds")
                os._exit(1)
            finally:
                self._progress.pop(job.digest, None)
                self._stopped.discard(job.digest)

    def progress(self, digest: str) -> Progress | None:
        """How far a job is, None when it does not run; also the health check."""
        return self._progress.get(digest)

    def stop(self, digest: str) -> None:
        """End a job at its next block."""
        self._stopped.add(digest)

    def whereabouts(self) -> tuple[str, int]:
        """Identity of the machine in the cluster, and the process there."""
        return str(ray.get_runtime_context().get_node_id()), os.getpid()


def disconnect() -> None:
    """Leave the cluster; a local one ends, with every process it started."""
    interruption.forget()
    shut_down()


def begin_loading(spec: EngineSpec) -> None:
    """Have the actor of a spec load its model, without waiting for it."""
    connect()
    engine_actor(spec).load.remote()


def num_gpus() -> float:
    """GPUs of the cluster."""
    return float(ray.cluster_resources().get("GPU", 0))


def spec_name(spec: EngineSpec) -> str:
    """What tells the actors of one model on one kind of device from others."""
    return f"{spec.version[:16]}-{spec.device}-{spec.dtype}{'-fp8' * spec.fp8}{'-offload' * spec.offload}"


def engine_actor(spec: EngineSpec) -> ActorHandle:
    """The resident actor of a spec; started when there is none."""
    threads = cores()
    gpus = 1 if spec.device != "cpu" and num_gpus() >= 1 else 0
    name = f"engine-{spec_name(spec)}" + (f"-{spec.replica}" if spec.replica else "")
    remote = ray.remote(EngineActor).options(
        name=name,
        namespace=NAMESPACE,
        get_if_exists=True,
        lifetime="detached",  # until its cluster ends; a local cluster ends with the driver
        num_cpus=0,  # jobs queue at the actor; reserving cores would only keep a second model out
        num_gpus=gpus,
        max_restarts=-1,
        max_concurrency=4,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}},
    )
    return cast(ActorHandle, remote.remote(spec, threads))


def render(
    spec: EngineSpec, job: RenderJob, on_progress: Callable[[Progress], None], on_loaded: Callable[[float], None]
) -> RenderResult:
    """Render a job on the resident actor of `spec`; connects to Ray when that was not done.

    Args:
        spec: the model.
        job: what to render.
        on_progress: called with every new progress, in this thread.
        on_loaded: called once with the seconds that loading the model took.

    Raises:
        Interrupted: Ctrl-C; the job can be resumed.
        CapacityError: the actor died more than `MAX_REVIVALS` times, or hangs.
        LiveAvatarError: what the job itself raised.
    """
    head = HeadWatch()
    for revival in range(MAX_REVIVALS + 1):
        actor = engine_actor(spec)
        try:
            _await_answer(actor, head)
            on_loaded(_loaded(actor, head))
            where = _unwrap(actor.whereabouts.remote())
            running: Any = actor.render.remote(job)
            return _watch(actor, head, partial(kill_process, *where), job.digest, on_progress, running, spec.limit_s)
        except HeadLost as e:
            if revival == MAX_REVIVALS:
                raise CapacityError(f"{e}, {revival + 1} times; see `liveavatar doctor`") from e
            head.recover()
            job = replace(job, resume=True)
        except RayActorError as e:
            if revival == MAX_REVIVALS:
                raise CapacityError(
                    f"the engine process died {revival + 1} times on this job ({_first_line(e)}); it may not fit in "
                    "memory: see `liveavatar plan`, then run again with --resume"
                ) from e
            log.warning("the engine process died; resuming from the last snapshot")
            log.debug("the engine process died: %s", e)
            job = replace(job, resume=True)
    raise AssertionError("unreachable")


def await_results(references: list[Any], head: HeadWatch, timeout: float) -> None:
    """Return when calls have ended.

    Raises:
        HeadLost: the head went away meanwhile.
        GetTimeoutError: they take longer.
    """
    deadline = time.monotonic() + timeout
    while ray.wait(references, num_returns=len(references), timeout=POLL_SECONDS)[1]:
        interruption.check()
        head.check()
        if time.monotonic() > deadline:
            raise GetTimeoutError(f"no answer within {timeout:.0f} s")


def _loaded(actor: ActorHandle, head: HeadWatch) -> float:
    """Have the model loaded; the seconds it took."""
    loading: Any = actor.load.remote()
    await_results([loading], head, math.inf)
    return float(_unwrap(loading))


def _await_answer(actor: ActorHandle, head: HeadWatch) -> None:
    """Return when an actor answers; one that is being restarted refuses calls for a second or two."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            answer: Any = actor.progress.remote("")
            await_results([answer], head, START_SECONDS)
            ray.get(answer)
            return
        except ActorUnavailableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)
        except GetTimeoutError as e:
            raise CapacityError(
                f"the engine process did not start within {START_SECONDS:.0f} s; the machine may be out of memory "
                "or its GPU taken: see `liveavatar doctor`"
            ) from e


def kill_process(node: str, pid: int) -> None:
    """Kill an actor's process where it is, for Ray asks a process to end itself, and a stopped one never hears that."""
    if node == ray.get_runtime_context().get_node_id():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    ray.remote(os.kill).options(num_cpus=0, scheduling_strategy=there).remote(pid, signal.SIGKILL)


def _watch(
    actor: ActorHandle,
    head: HeadWatch,
    kill: Callable[[], None],
    digest: str,
    on_progress: Callable[[Progress], None],
    running: Any,
    limit_s: float,
) -> RenderResult:
    """Wait for a job, passing on its progress; Ctrl-C ends it at the next block."""
    seen: Progress | None = None
    answered = time.monotonic()
    question: Any = actor.progress.remote(digest)
    try:
        while True:
            interruption.check()
            head.check()
            done, _ = ray.wait([running, question], num_returns=1, timeout=POLL_SECONDS)
            if running in done:
                return _unwrap(running)
            if question in done:
                progress = ray.get(question)
                answered = time.monotonic()
                if progress is not None and progress != seen:
                    seen = progress
                    on_progress(progress)
                time.sleep(POLL_SECONDS)
                question = actor.progress.remote(digest)
            elif time.monotonic() - answered > limit_s:
                log.warning("the engine process has not answered for %.0f s and is killed", limit_s)
                kill()
                answered = time.monotonic()
    except KeyboardInterrupt:
        actor.stop.remote(digest)
        try:
            return _unwrap(running, timeout=STOP_SECONDS)  # it may have been at its last block
        except GetTimeoutError as e:
            ray.kill(actor)
            kill()
            raise Interrupted("stopped in the middle of a block; run the same command with --resume to go on") from e
        except RayActorError as e:
            raise Interrupted("stopped; run the same command with --resume to go on") from e


def _unwrap(reference: Any, timeout: float | None = None) -> Any:
    """Result of a call; an exception of the called code comes out as itself."""
    try:
        return ray.get(reference, timeout=timeout)
    except RayTaskError as e:
        raise e.cause from e


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
