"""What a run tells whoever watches it: stages that begin and end, blocks that are done, notes.

Flows and tasks `emit`; the terminal subscribes. In a Prefect worker nobody does, and nothing happens.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing that happened."""

    kind: str  # "begin", "end", "progress", "note"
    stage: str
    text: str = ""
    done: int = 0  # blocks
    total: int = 0
    fps: float = 0.0
    cached: bool = False


_listeners: list[Callable[[Event], None]] = []


def emit(event: Event) -> None:
    """Tell all listeners."""
    for listener in _listeners:
        listener(event)


@contextmanager
def listening(listener: Callable[[Event], None]) -> Iterator[None]:
    """Have `listener` told of every event inside the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
