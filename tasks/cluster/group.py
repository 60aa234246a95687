"""An engine spread over a group of Ray actors, one a rank; the last rank owns the job (`liveavatar.distributed.tpp`).

A group stays for the next job. When a rank is lost, hangs, or raises, the whole group is ended and another is built
under a new name, which resumes the job from its last snapshot: no rank is ever started again alone.
"""

import logging
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from liveavatar.errors import CapacityError, Interrupted, LiveAvatarError
from liveavatar.hardware import cores
from liveavatar.render.job import Progress, RenderJob, RenderResult
from tasks.cluster import interruption
from tasks.cluster.actor import (
    MAX_REVIVALS,
    POLL_SECONDS,
    START_SECONDS,
    STOP_SECONDS,
    EngineActor,
    EngineSpec,
    await_results,
    connect,
    kill_process,
    num_gpus,
    spec_name,
)
from tasks.cluster.head import NAMESPACE, HeadLost, HeadWatch

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"


class GroupLost(Exception):
    """A rank of the group is no more, or says that another is."""


class RankActor(EngineActor):
    """One rank's networks in a process of its own."""

    def __init__(self, spec: EngineSpec, num_threads: int, rank: int) -> None:
        super().__init__(spec, num_threads)
        self.rank = rank
        self._member: Any = None
        self._joined = False

    @property
    def member(self) -> Any:
        """The `liveavatar.distributed.rank.Rank` of this process."""
        from liveavatar.distributed.rank import Rank, RankSpec

        if self._member is None:
            spec = self.spec
            seat = RankSpec(rank=self.rank, world=spec.ranks, own_decoder=spec.own_decoder, fp8=spec.fp8)
            self._member = Rank(self.spec.model_dir, seat, self.spec.device, self.spec.dtype, self.spec.limit_s)
        return self._member

    def load(self) -> float:
        """Load what the rank needs of the model if it is not there yet; returns the seconds it took."""
        started = time.perf_counter()
        with self._loading:
            if self._engine is None:
                self._engine = self.member.engine()
        return time.perf_counter() - started

    def joined(self) -> bool:
        """Whether this rank has met the others."""
        return self._joined

    def node(self) -> str:
        """Address of the machine."""
        return str(ray.util.get_node_ip_address())

    def host(self, address: str) -> tuple[str, int]:
        """Open the meeting point of the group."""
        return cast(tuple[str, int], self.member.group.host(address))

    def join(self, address: tuple[str, int]) -> None:
        """Meet the other ranks."""
        self.member.group.join(address)
        self._joined = True

    def serve(self) -> bool:
        """Take part in the next job."""
        with self._one_job:
            self.load()
            return bool(self.member.serve())


def begin_loading(spec: EngineSpec) -> None:
    """Have the ranks of a group load, without waiting for them."""
    connect()
    for actor in group_actors(spec):
        actor.load.remote()


def group_actors(spec: EngineSpec) -> list[ActorHandle]:
    """The resident ranks of a spec in order; a new group when there is none, or not all of one."""
    prefix = f"group-{spec_name(spec)}-{spec.ranks}{'d' * spec.own_decoder}-"
    groups: dict[str, list[str]] = {}
    for name in ray.util.list_named_actors():
        if name.startswith(prefix):
            groups.setdefault(name.removeprefix(prefix).split("-")[0], []).append(name)
    for names in groups.values():
        try:
            actors = [ray.get_actor(name, NAMESPACE) for name in names]
        except ValueError:  # one ended just now
            continue
        if len(actors) == spec.ranks:
            ranks = {int(name.rsplit("-", 1)[1]): actor for name, actor in zip(names, actors, strict=True)}
            return [ranks[rank] for rank in range(spec.ranks)]
        end(actors)
    token = secrets.token_hex(4)
    return [_start(spec, f"{prefix}{token}-{rank}", rank) for rank in range(spec.ranks)]


def _start(spec: EngineSpec, name: str, rank: int) -> ActorHandle:
    threads = cores()
    remote = ray.remote(RankActor).options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",  # until its cluster ends; a local cluster ends with the driver
        num_cpus=0,
        num_gpus=1 if spec.device != "cpu" and num_gpus() >= 1 else 0,
        max_restarts=0,
        max_concurrency=4,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}},
    )
    return cast(ActorHandle, remote.remote(spec, threads, rank))


def end(actors: list[ActorHandle], whereabouts: list[tuple[str, int]] | None = None) -> None:
    """End the processes of a group; with their whereabouts also those that are stopped."""
    for actor in actors:
        ray.kill(actor)
    for where in whereabouts or []:
        kill_process(*where)


def render(
    spec: EngineSpec, job: RenderJob, on_progress: Callable[[Progress], None], on_loaded: Callable[[float], None]
) -> RenderResult:
    """Render a job on the resident group of `spec`; see `cluster.render` for arguments and errors."""
    head = HeadWatch()
    for revival in range(MAX_REVIVALS + 1):
        actors = group_actors(spec)
        where: list[tuple[str, int]] = []
        try:
            where = _get([actor.whereabouts.remote() for actor in actors], START_SECONDS, head)
            assemble(actors, head)
            on_loaded(max(_get([actor.load.remote() for actor in actors], START_SECONDS, head)))
            return _watch(actors, head, where, job, on_progress, spec.limit_s)
        except HeadLost as e:
            if revival == MAX_REVIVALS:
                raise CapacityError(f"{e}, {revival + 1} times; see `liveavatar doctor`") from e
            head.recover()
            job = replace(job, resume=True)
        except (GroupLost, GetTimeoutError) as e:
            end(actors, where)
            if revival == MAX_REVIVALS:
                raise CapacityError(
                    f"a group of {spec.ranks} processes was lost {revival + 1} times on this job ({e}); it may not "
                    "fit in memory: see `liveavatar plan`, then run again with --resume, or with --placement single"
                ) from e
            log.warning("a rank of the group was lost; a new group resumes from the last snapshot")
            log.debug("a rank of the group was lost: %s", e)
            job = replace(job, resume=True)
    raise AssertionError("unreachable")


def assemble(actors: list[ActorHandle], head: HeadWatch) -> None:
    """Have the ranks of a new group meet."""
    if all(_get([actor.joined.remote() for actor in actors], START_SECONDS, head)):
        return
    nodes = _get([actor.node.remote() for actor in actors], START_SECONDS, head)
    place = LOOPBACK if len(set(nodes)) == 1 else nodes[0]
    address = _get([actors[0].host.remote(place)], START_SECONDS, head)[0]
    _get([actor.join.remote(address) for actor in actors], START_SECONDS, head)


def _watch(
    actors: list[ActorHandle],
    head: HeadWatch,
    where: list[tuple[str, int]],
    job: RenderJob,
    on_progress: Callable[[Progress], None],
    limit_s: float,
) -> RenderResult:
    """Wait for a job, passing on its progress; Ctrl-C ends it at the next block."""
    last = actors[-1]
    serving = [actor.serve.remote() for actor in actors[:-1]]
    running: Any = last.render.remote(job)
    question: Any = last.progress.remote(job.digest)
    seen: Progress | None = None
    answered = time.monotonic()
    try:
        while True:
            interruption.check()
            head.check()
            done, _ = ray.wait([running, question, *serving], num_returns=1, timeout=POLL_SECONDS)
            if running in done:
                return cast(RenderResult, _get([running], None)[0])
            for finished in [reference for reference in serving if reference in done]:
                _get([finished], None)
                serving.remove(finished)
            if question in done:
                progress = _get([question], None)[0]
                answered = time.monotonic()
                if progress is not None and progress != seen:
                    seen = progress
                    on_progress(progress)
                time.sleep(POLL_SECONDS)
                question = last.progress.remote(job.digest)
            elif time.monotonic() - answered > limit_s:
                raise GroupLost(f"the last rank has not answered for {limit_s:.0f} s")
    except KeyboardInterrupt:
        last.stop.remote(job.digest)
        try:
            return cast(RenderResult, _get([running], STOP_SECONDS)[0])
        except (GroupLost, GetTimeoutError) as e:
            end(actors, where)
            raise Interrupted("stopped; run the same command with --resume to go on") from e


def _get(references: list[Any], timeout: float | None, head: HeadWatch | None = None) -> list[Any]:
    """Results of calls. An error that users know comes out as itself, any other as the loss of the group."""
    try:
        if head is not None:
            await_results(references, head, math.inf if timeout is None else timeout)
        return list(ray.get(references, timeout=timeout))
    except RayTaskError as e:
        if isinstance(e.cause, LiveAvatarError):
            raise e.cause from e
        raise GroupLost(f"{type(e.cause).__name__}: {e.cause}") from e
    except RayActorError as e:
        raise GroupLost(str(e).strip().splitlines()[0]) from e
