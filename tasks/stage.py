"""Shared shell of all stages: how a stage is named, announced and filed in the store.

A stage's key is made of the bytes it reads, its parameters, the source files it runs and the packages that can
change its result. Prefect sees the stage as one task; the bytes stay in our store.
"""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.cluster.interruption import Interruption, signals_interrupt
from tasks.events import Event, emit
from tasks.store.keys import StageKey
from tasks.store.store import Entry, Store, Values

P = ParamSpec("P")
R = TypeVar("R")


def stage(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function a Prefect task that tells when it begins and ends. Our store caches, not Prefect."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def announced(*args: P.args, **kwargs: P.kwargs) -> R:
            emit(Event(kind="begin", stage=name))
            started = time.perf_counter()
            with signals_interrupt(Interruption()):  # Prefect's own handler raises what C code does not pass on
                result = function(*args, **kwargs)
            seconds = time.perf_counter() - started
            emit(Event(kind="end", stage=name, text=f"{seconds:.1f} s", cached=getattr(result, "hit", False)))
            return result

        return task(name=name, cache_policy=NO_CACHE, persist_result=False, log_prints=False)(announced)

    return decorate


def cached(
    key: StageKey,
    make: Callable[[Path], Values],
    *,
    force: bool = False,
    on_abandoned: Callable[[Path], Values] | None = None,
    while_waiting: Callable[[], None] = lambda: None,
) -> Entry:
    """Return a stage's entry from the store, making it when its inputs, code or packages changed.

    Args:
        key: from `tasks.store.keys.stage_key`.
        make: fills an empty folder and returns facts.
        force: make it again although it is there.
        on_abandoned: used in place of `make` when another run was waited for and ended without the entry.
        while_waiting: called again and again while another run makes the entry; what it raises ends the wait.

    Raises:
        CapacityError: the disk is full.
    """
    return Store().build(
        key.stage,
        key.digest,
        make,
        force=force,
        on_abandoned=on_abandoned,
        made_from=key.made_from(),
        while_waiting=while_waiting,
    )
