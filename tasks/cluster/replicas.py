"""Which of several engines with the same model takes a job: the first that is free.

`replicas` of a batch are engines side by side, one a GPU or one a process. Outside of such a batch there is one.
"""

import queue
from collections.abc import Iterator
from contextlib import contextmanager

_free: queue.SimpleQueue[int] | None = None


@contextmanager
def offered(count: int) -> Iterator[None]:
    """Have `count` engines inside the block, for as many threads."""
    global _free
    _free = queue.SimpleQueue()
    for number in range(count):
        _free.put(number)
    try:
        yield
    finally:
        _free = None


@contextmanager
def taken() -> Iterator[int]:
    """The number of an engine that is ours inside the block."""
    free = _free
    if free is None:
        yield 0
        return
    number = free.get()
    try:
        yield number
    finally:
        free.put(number)
