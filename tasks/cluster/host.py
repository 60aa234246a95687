"""The host of an engine: one resident actor, or a group of them, as the engine's ranks ask for.

After a loss it counts the GPUs that are left. Where they are too few for the ranks, the job goes on with as many as
are planned for them.
"""

import logging
from collections.abc import Callable
from contextlib import suppress

from ray.actor import ActorHandle

from liveavatar.errors import CapacityError
from liveavatar.render.job import Progress, RenderJob, RenderResult
from tasks.cluster.actor import ActorCalls, EngineSpec, engine_actor, engine_name, on_gpus
from tasks.cluster.gpus import GpusLeft, any_held, look
from tasks.cluster.group import GroupCalls, group_actors, group_prefix
from tasks.cluster.head import SESSION, HeadWatch
from tasks.cluster.interruption import Interruption, signals_interrupt
from tasks.cluster.replicas import NoGpuLeft
from tasks.cluster.supervision import EngineCalls, HeadLost, supervise

log = logging.getLogger(__name__)

WAY_OUT = "run the same command with --resume once the other GPUs are back"


class EngineHost:
    """Loads an engine where it is to be and renders jobs on it."""

    def __init__(self, spec: EngineSpec, replan: Callable[[int], EngineSpec] | None = None) -> None:
        """Host an engine.

        Args:
            spec: the engine.
            replan: plans it for fewer GPUs than it has ranks, and raises `CapacityError` when they cannot hold it.
        """
        self.spec, self._replan = spec, replan
        self._on_gpus: bool | None = None  # once an engine was started

    def begin_loading(self) -> None:
        """Load the model, without waiting for it; nothing happens when the head of Ray is lost meanwhile.

        Where an earlier job has lost a GPU, nothing happens either: only the job's plan tells how many ranks are left.
        """
        interruption = Interruption()
        with signals_interrupt(interruption), suppress(HeadLost):
            for actor in HeadWatch(interruption).watched(self._actors):
                actor.load.remote()

    def render(
        self,
        job: RenderJob,
        on_progress: Callable[[Progress], None],
        on_loaded: Callable[[float], None],
        interruption: Interruption | None = None,
    ) -> RenderResult:
        """Render a job under supervision; connect to Ray when that was not done.

        Args:
            job: what to render.
            on_progress: called with every new progress, in this thread.
            on_loaded: called after every start of the engine with the seconds that loading the model took.
            interruption: of a job in a thread.

        Raises:
            Interrupted: Ctrl-C or `interruption`; the job can be resumed. SIGTERM ends in what its handler raises.
            CapacityError: the engine was lost too often, or hangs.
            LiveAvatarError: what the job itself raised.
        """
        interruption = interruption or Interruption()
        with signals_interrupt(interruption):
            head = HeadWatch(interruption)
            return supervise(
                lambda: head.watched(lambda: self._calls(head)), head, job, self.spec.limit_s, on_progress, on_loaded
            )

    def _actors(self) -> list[ActorHandle]:
        if on_gpus(self.spec) and any_held():
            return []
        return group_actors(self.spec) if self.spec.ranks > 1 else [engine_actor(self.spec)]

    def _calls(self, head: HeadWatch) -> EngineCalls:
        SESSION.require_room()
        self._use_gpus_left()
        return GroupCalls(self.spec, head) if self.spec.ranks > 1 else ActorCalls(self.spec, head)

    def _use_gpus_left(self) -> None:
        """Plan for the GPUs that are left, after a loss or where an earlier job has lost one."""
        lost = self._on_gpus is not None
        if self._on_gpus is None:
            self._on_gpus = on_gpus(self.spec)
        if not self._on_gpus or not (lost or any_held()):
            return
        ranks = self.spec.ranks
        own = group_prefix(self.spec) if ranks > 1 else engine_name(self.spec)
        left = look(own if lost else "")
        if left.count < ranks:
            self.spec = self._planned_for(left)
            log.warning("%s; planned for %d, the job goes on with %d", left, ranks, self.spec.ranks)

    def _planned_for(self, left: GpusLeft) -> EngineSpec:
        if not left.count:
            raise NoGpuLeft(str(left), WAY_OUT)
        if self._replan is None:
            raise CapacityError(f"{left}, and the job takes {self.spec.ranks}; {WAY_OUT}")
        try:
            return self._replan(left.count)
        except CapacityError as e:
            raise CapacityError(f"{left}, too few for this job: {e}; {WAY_OUT}") from e
