"""An engine spread over a group of Ray actors, one a rank; the last rank owns the job (`liveavatar.distributed.tpp`).

A group stays for the next job. When a rank is lost, hangs, or raises, the whole group is ended and another is built
under a new name, which resumes the job from its last snapshot: no rank is ever started again alone. How many ranks that
has is decided by `tasks.cluster.host`.
"""

import logging
import math
import secrets
import threading
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from liveavatar.hardware import cores
from liveavatar.render.job import Progress, RenderJob, RenderResult
from tasks.cluster.actor import (
    START_SECONDS,
    EngineActor,
    EngineSpec,
    actor_class,
    actor_options,
    answers,
    on_gpus,
    spec_name,
)
from tasks.cluster.calls import Process, RayJob, await_results, results
from tasks.cluster.head import NAMESPACE, HeadWatch
from tasks.cluster.room import make_room
from tasks.cluster.supervision import EngineLost

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"


class RankActor:
    """One rank's networks in a process of its own, in an engine actor that loads no more than the rank needs."""

    def __init__(self, spec: EngineSpec, num_threads: int, index: int) -> None:
        self.actor = EngineActor(spec, num_threads, lambda _: self.rank.engine())
        self.spec, self.index = spec, index
        self._rank: Any = None
        self._making = threading.Lock()  # loading and meeting begin in two threads: each would make a rank of its own
        self._joined = False

    @property
    def rank(self) -> Any:
        """The `liveavatar.load.Rank` of this process."""
        from liveavatar.distributed.placement import RankSpec
        from liveavatar.load import Rank
        from tasks.cluster.decode_layers import decode_layers_for

        with self._making:
            if self._rank is None:
                spec = self.spec
                place = RankSpec(
                    rank=self.index, world=spec.ranks, own_decoder=spec.own_decoder, fp8=spec.fp8, layers=spec.layers
                )
                self._rank = Rank(spec.model_dir, place, spec.device, spec.dtype, spec.limit_s, decode_layers_for)
            return self._rank

    def joined(self) -> bool:
        """Tell if this rank has met the others."""
        return self._joined

    def node(self) -> str:
        """Find the address of the machine."""
        return str(ray.util.get_node_ip_address())

    def host(self, address: str) -> tuple[str, int]:
        """Open the meeting point of the group."""
        return cast(tuple[str, int], self.rank.group.host(address))

    def join(self, address: tuple[str, int]) -> None:
        """Join the process group of the other ranks."""
        self.rank.group.join(address)
        self._joined = True

    def serve(self) -> bool:
        """Take part in the next job."""
        return self.actor.serve(lambda: bool(self.rank.serve()))

    def load(self) -> float:
        """Load the networks that the rank needs; return the seconds it took."""
        return self.actor.load()

    def render(self, job: RenderJob, caller: str | None = None) -> RenderResult:
        """Render a job, which the other ranks serve, as long as its caller lives."""
        return self.actor.render(job, caller)

    @answers
    def progress(self, digest: str) -> Progress | None:
        """Return the progress of a job, None when it does not run; also the health check."""
        return self.actor.progress(digest)

    @answers
    def stop(self, digest: str) -> None:
        """End a job at its next block."""
        self.actor.stop(digest)

    @answers
    def is_idle(self) -> bool:
        """Tell if no job is rendered and no model is loaded right now."""
        return self.actor.is_idle()

    @answers
    def node_and_pid(self) -> Process:
        """Find the process of this rank."""
        return self.actor.node_and_pid()


def group_prefix(spec: EngineSpec) -> str:
    """Return what the names of a spec's resident ranks begin with."""
    layers = "".join(f"_{count}" for count in spec.layers)
    return f"group-{spec_name(spec)}-{spec.ranks}{'d' * spec.own_decoder}{layers}-"


def group_actors(spec: EngineSpec) -> list[ActorHandle]:
    """Get the resident ranks of a spec in order; start a new group when there is none, or not all of one."""
    prefix = group_prefix(spec)
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
        for actor in actors:
            ray.kill(actor)
    if on_gpus(spec):
        make_room(spec.ranks)
    token = secrets.token_hex(4)
    return [_start(spec, f"{prefix}{token}-{rank}", rank) for rank in range(spec.ranks)]


def _start(spec: EngineSpec, name: str, rank: int) -> ActorHandle:
    remote = actor_class(RankActor).options(name=name, max_restarts=0, **actor_options(spec))
    return cast(ActorHandle, remote.remote(spec, cores(), rank))


class GroupCalls:
    """Calls to the ranks of a group. See `supervision.EngineCalls`."""

    alternative = ", or with --placement single"

    def __init__(self, spec: EngineSpec, head: HeadWatch) -> None:
        self.name = f"a group of {spec.ranks} processes"
        self.head, self.actors = head, group_actors(spec)
        self._processes: list[Process] = []

    def load(self) -> float:
        """Wait for the processes, have them meet, and wait for the slowest to load."""
        self._processes = self._ask("node_and_pid")
        if not all(self._ask("joined")):
            nodes = self._ask("node")
            meeting_point = LOOPBACK if len(set(nodes)) == 1 else nodes[0]
            (address,) = self._results([self.actors[0].host.remote(meeting_point)])
            self._results([actor.join.remote(address) for actor in self.actors])
        return float(max(self._ask("load", math.inf)))  # many gigabytes from a slow disk

    def begin(self, job: RenderJob) -> RayJob:
        """Render a job through the last rank."""
        return RayJob(self.actors[-1], self.actors[:-1], job)

    def recycle(self) -> None:
        """End all ranks; the next start builds another group."""
        self.end()

    def end(self) -> None:
        """End all ranks, also those that are stopped."""
        for actor in self.actors:
            ray.kill(actor)
        for process in self._processes:
            process.kill()

    def _ask(self, method: str, seconds: float = START_SECONDS) -> list[Any]:
        """Call a method of every rank, which may take so many seconds."""
        return self._results([getattr(actor, method).remote() for actor in self.actors], seconds)

    def _results(self, references: list[Any], seconds: float = START_SECONDS) -> list[Any]:
        try:
            await_results(references, self.head, seconds)
            return results(references, None, any_error_is_a_loss=True)
        except (TimeoutError, RayActorError) as e:
            raise EngineLost(str(e).strip().splitlines()[0]) from e
