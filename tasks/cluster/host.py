"""The host of an engine: one resident actor, or a group of them, as the engine's ranks ask for."""

from collections.abc import Callable
from contextlib import suppress

from ray.actor import ActorHandle

from liveavatar.render.job import Progress, RenderJob, RenderResult
from tasks.cluster.actor import ActorCalls, EngineSpec, engine_actor
from tasks.cluster.group import GroupCalls, group_actors
from tasks.cluster.head import SESSION, HeadWatch
from tasks.cluster.interruption import Interruption, signals_interrupt
from tasks.cluster.supervision import EngineCalls, HeadLost, supervise


class EngineHost:
    """Loads an engine where it is to be and renders jobs on it."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec

    def begin_loading(self) -> None:
        """Load the model, without waiting for it; nothing happens when the head of Ray is lost meanwhile."""
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
        return group_actors(self.spec) if self.spec.ranks > 1 else [engine_actor(self.spec)]

    def _calls(self, head: HeadWatch) -> EngineCalls:
        SESSION.require_room()
        return GroupCalls(self.spec, head) if self.spec.ranks > 1 else ActorCalls(self.spec, head)
