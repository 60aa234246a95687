"""Division of a spread job among GPUs: how many of them take part, and which layers each has.

Memory and times of a division are another module's (`liveavatar.planning.memory`); this one chooses among those that
`render` can carry out.
"""

import math
from collections.abc import Sequence
from typing import Protocol

from liveavatar.engine.placement import RankTimes, RankWork, circulate, share_layers, split_layers
from liveavatar.errors import InputError
from liveavatar.hardware import Gpu
from liveavatar.planning.speed import Speeds

CLEARLY = 1.05  # faster by this, as predicted, before an unusual division, or one of fewer GPUs, is taken


class Load(Protocol):
    """Memory of one GPU."""

    @property
    def total(self) -> float:
        """GB that are needed."""

    @property
    def usable(self) -> float:
        """GB that there are."""


class DivisionCosts(Protocol):
    """Memory and times of the divisions of one job."""

    def rank_loads(self, ranks: tuple[RankWork, ...]) -> Sequence[Load]:
        """Return the load of each GPU."""

    def holds(self, works: tuple[RankWork, ...]) -> bool:
        """Tell if a division fits."""

    def block_seconds(self, works: tuple[RankWork, ...]) -> float:
        """Predict the seconds between two blocks."""

    def times(self, gpus: tuple[Gpu, ...]) -> RankTimes:
        """Predict the seconds of a layer on each GPU, and of what the last does beside."""

    def speeds(self, gpu: Gpu | None) -> Speeds:
        """Predict the times on a GPU."""


def divide(costs: DivisionCosts, gpus: tuple[Gpu, ...], steps: int, layers: int) -> tuple[RankWork, ...]:
    """Divide a job among the first of some GPUs.

    All of them take part, unless the job then does not fit while it fits fewer, or a slow one would hold up the others.

    Args:
        costs: memory and times of its divisions.
        gpus: that may take part, two or more; of one there is nothing to divide.
        steps: denoise steps of a block.
        layers: of the transformer.
    """
    among_all = divide_among(costs, gpus, steps, layers)
    if len(set(gpus)) == 1 and (costs.holds(among_all) or not _fits(costs, among_all)):
        return among_all
    fewer = [divide_among(costs, gpus[:count], steps, layers) for count in range(len(gpus) - 1, 1, -1)]
    return _fastest(costs, [among_all, *fewer]) or among_all


def divide_among(costs: DivisionCosts, gpus: tuple[Gpu, ...], steps: int, layers: int) -> tuple[RankWork, ...]:
    """Divide a job among all of some GPUs.

    The GPU that decodes also has layers. Where a GPU has no room for a whole transformer and its share of the rings, or
    they are of several speeds, that of the decoder may have none if there are more GPUs than steps, or each has the
    same layers of all steps, more of them on a faster one.
    """
    count = len(gpus)
    # The rank that decodes divides the layers, by what it knows of its own GPU.
    shared = split_layers(steps, layers, count, costs.speeds(gpus[-1]).decode_layers(layers))
    if costs.holds(shared) and len(set(gpus)) == 1:
        return shared
    others = [split_layers(steps, layers, count, math.inf)] if count > steps else []
    if 1 < count <= layers:
        others.append(_circular(costs, gpus, steps, layers))
    return _fastest(costs, [shared, *others]) or (shared if _fits(costs, shared) or not others else others[-1])


def _fits(costs: DivisionCosts, works: tuple[RankWork, ...]) -> bool:
    return all(load.total <= load.usable for load in costs.rank_loads(works))


def _fastest(costs: DivisionCosts, divisions: list[tuple[RankWork, ...]]) -> tuple[RankWork, ...] | None:
    """Return the fastest division that fits, the first of those that are about as fast; None when none fits."""
    best: tuple[RankWork, ...] | None = None
    for works in filter(costs.holds, divisions):
        if best is None or costs.block_seconds(works) * CLEARLY < costs.block_seconds(best):
            best = works
    return best


def _circular(costs: DivisionCosts, gpus: tuple[Gpu, ...], steps: int, layers: int) -> tuple[RankWork, ...]:
    """Give each GPU some layers of every step: as is fastest, or where that does not fit as there is room."""
    times = costs.times(gpus)
    counts = share_layers(steps, layers, times)
    works = circulate(steps, counts)
    if _fits(costs, works):
        return works
    loads = costs.rank_loads(works)
    more = costs.rank_loads(circulate(steps, [count + 1 for count in counts]))
    room = [
        count + math.floor((load.usable - load.total) / (other.total - load.total))
        for count, load, other in zip(counts, loads, more, strict=True)
    ]
    try:
        return circulate(steps, share_layers(steps, layers, times, room))
    except InputError:
        return works
