"""Shares of a group's ranks by the times that they were measured to take.

The planner's table knows kinds of GPUs, not this one, its driver, or how much decoding slows the layers beside it. So
each job of a resident group leaves the times of its blocks behind, and the next one of the same shapes is divided by
them. Times come from marks that are recorded anyway. A division changes where a layer runs and no bit of the result.

Shapes: h, w latent height and width.
"""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from liveavatar.config import DiTConfig
from liveavatar.engine.denoiser import DenoiseSpec
from liveavatar.engine.job import Block
from liveavatar.engine.placement import RankTimes, RankWork, spread_layers
from liveavatar.hardware import GB
from liveavatar.model.motion import motion_tokens
from liveavatar.timing import BLOCK_LATENTS

log = logging.getLogger(__name__)

KEPT, ENOUGH = 64, 8  # blocks: the newest that are remembered, and how many are believed
GAIN = 0.03  # of a block's time: for less, buffers and CUDA graphs are not made anew
SPARE_GB = 1.0  # of a GPU that are not given to more layers: allocators keep pieces that are of no use
BYTES = 2  # of a number in a ring, at most


@dataclass(frozen=True, slots=True)
class Shape:
    """Jobs whose blocks take equally long."""

    h: int
    w: int
    num_steps: int
    rings: str  # dtype of keys and values
    skeleton: bool

    @classmethod
    def of(cls, spec: DenoiseSpec) -> "Shape":
        """Return the shape of a job."""
        return cls(spec.h, spec.w, spec.num_steps, spec.settings.kv_cache_dtype, spec.skeleton)

    def layer_gb(self, cfg: DiTConfig) -> float:
        """Return the memory of one layer of one step in GB: keys and values of its ring and of the sinks before it."""
        tokens = (self.h // 2) * (self.w // 2)
        kept = (cfg.window_latents + 1) * tokens + motion_tokens(self.h, self.w)
        return 2 * BYTES * cfg.dim * kept / GB


def rank_times(layers: Sequence[int], busy_s: Sequence[float], wait_s: float, decode_s: float) -> RankTimes:
    """Estimate the seconds of a layer on each rank, and of decoding a block.

    Decoding goes on beside the layers of the next block, which it slows. What it takes is the time that the last rank
    decodes with nothing else to do, and by how much its layers take longer than those of the other ranks do.

    Args:
        layers: of each rank.
        busy_s: seconds of each rank with its layers of a block.
        wait_s: seconds without layers of the last rank.
        decode_s: seconds from the begin of decoding to its end.
    """
    *others, last = busy_s
    pace = sum(others) / sum(layers[:-1])
    by_rank = [time / count for time, count in zip(others, layers[:-1], strict=True)]
    beside = min(wait_s, decode_s) + last - layers[-1] * pace
    return RankTimes((*by_rank, pace), max(0.0, beside) if layers[-1] else decode_s)


class Balance:
    """Times of the blocks of one shape of jobs, and the division of layers that follows from them."""

    def __init__(self, cfg: DiTConfig, shape: Shape) -> None:
        self.cfg, self.shape = cfg, shape
        self.divided: tuple[RankWork, ...] = ()  # the newest job
        self.by_times = False  # whether it was divided by measured times
        self._rows: deque[tuple[tuple[float, ...], float, float, tuple[float, ...]]] = deque(maxlen=KEPT)

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers of each rank in the newest job."""
        return self._count(self.divided)

    def begin(self, guess: tuple[RankWork, ...]) -> tuple[RankWork, ...]:
        """Divide the next job: as `guess` the first time, by what was measured once there is enough."""
        before, better = self.divided, self._better()
        self.divided = better or before or guess
        self.by_times |= better is not None
        if self.divided != before:
            self._rows.clear()  # times of another division
        return self.divided

    def note(self, block: Block) -> None:
        """Take the times of a block, if it was decoded and the rings were full."""
        if block.index * BLOCK_LATENTS < self.cfg.window_latents or block.frames is None:
            return
        left = tuple(one.gpu_left if one.gpu_total else np.inf for one in block.memory)
        self._rows.append((block.busy_s, block.wait_s[-1], block.decode_s, left))

    def measured(self) -> RankTimes | None:
        """Return the ranks' median times, None before there are enough blocks."""
        if len(self._rows) < ENOUGH:
            return None
        busy, wait, decode = (np.median([row[i] for row in self._rows], axis=0).tolist() for i in range(3))
        return rank_times(self.layers, busy, wait, decode)

    def _better(self) -> tuple[RankWork, ...] | None:
        """Divide by measured times; None when there are too few, or this would hardly be faster."""
        times = self.measured()
        if times is None:
            return None
        most = [count + self._room(rank) for rank, count in enumerate(self.layers)]
        works = spread_layers(self.shape.num_steps, self.cfg.num_layers, times, most)
        layers = self._count(works)
        before, after = max(times.busy(self.layers)), max(times.busy(layers))
        if before - after < GAIN * before:
            return None
        log.info(
            "layers are spread by measured times: %s in place of %s, %.0f %% less time a block",
            "/".join(map(str, layers)), "/".join(map(str, self.layers)), 100 * (1 - after / before),
        )  # fmt: skip
        return works

    def _count(self, works: tuple[RankWork, ...]) -> tuple[int, ...]:
        return tuple(work.num_layers_of(self.cfg.num_layers) for work in works)

    def _room(self, rank: int) -> int:
        """Count the layers that a rank's GPU has room for beside those it has; any number without a GPU."""
        left = min(row[-1][rank] for row in self._rows) - SPARE_GB
        return int(min(max(0.0, left) / self.shape.layer_gb(self.cfg), self.shape.num_steps * self.cfg.num_layers))
