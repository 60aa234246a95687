"""Events of a run for its observers: stages that begin and end, finished blocks, notes.

Flows and tasks `emit`; the terminal listens. The listeners belong to the context (`contextvars`) of the command that
runs the flow, so a Prefect worker has none, and two runs in one process do not hear each other.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from liveavatar.engine.memory import MemoryReading


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One event."""

    kind: str  # "begin", "end", "progress", "note", and "fact", which is for logs only
    stage: str
    text: str = ""
    done: int = 0  # blocks
    total: int = 0
    fps: float = 0.0
    cached: bool = False
    memory: tuple[MemoryReading, ...] = ()  # of each rank, with progress


_listeners: ContextVar[tuple[Callable[[Event], None], ...]] = ContextVar("listeners", default=())


def emit(event: Event) -> None:
    """Pass an event to all listeners of this context."""
    for listener in _listeners.get():
        listener(event)


def is_heard() -> bool:
    """Tell if anybody listens in this context."""
    return bool(_listeners.get())


@contextmanager
def listening(listener: Callable[[Event], None]) -> Iterator[None]:
    """Pass every event inside the block to `listener`."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)
