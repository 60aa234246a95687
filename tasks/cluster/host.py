"""The host of an engine: one resident actor, or a group of them, as the engine's ranks ask for."""

from collections.abc import Callable
from typing import Protocol

from liveavatar.render.job import Progress, RenderJob, RenderResult
from tasks.cluster.actor import ActorHost, EngineSpec
from tasks.cluster.group import GroupHost


class EngineHost(Protocol):
    """Loads an engine where it is to be and renders jobs on it."""

    def begin_loading(self) -> None:
        """Have the model loaded, without waiting for it."""

    def render(
        self, job: RenderJob, on_progress: Callable[[Progress], None], on_loaded: Callable[[float], None]
    ) -> RenderResult:
        """Render a job; connect to Ray when that was not done.

        Args:
            job: what to render.
            on_progress: called with every new progress, in this thread.
            on_loaded: called after every start of the engine with the seconds that loading the model took.

        Raises:
            Interrupted: Ctrl-C; the job can be resumed.
            CapacityError: the engine was lost too often, or hangs.
            LiveAvatarError: what the job itself raised.
        """


def host_of(spec: EngineSpec) -> EngineHost:
    """Choose the host of an engine."""
    return GroupHost(spec) if spec.ranks > 1 else ActorHost(spec)
