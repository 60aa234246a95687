"""Timings and memory of a job, block by block, and their summary in a report."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from liveavatar.engine.memory import MemoryReading, shortages
from liveavatar.engine.placement import RankWork
from liveavatar.timing import BLOCK_SECONDS


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockRow:
    """Timings of one block."""

    block: int
    step_ms: list[float]
    decode_ms: float  # latents to frames
    block_ms: float  # from the hand-over of the block before to this one's: the pace of the stream
    ready_s: float  # seconds after the job began when its frames were in the video
    wait_ms: list[float] = field(default_factory=list)  # that each rank of a group waited for this block
    delay_ms: float | None = None  # of sound from a pipe: from its last sample heard to its frames in the video
    memory: list[list[float]] = field(default_factory=list)  # values of each rank's `MemoryReading`

    @property
    def readings(self) -> tuple[MemoryReading, ...]:
        """Memory of each rank after the block."""
        return tuple(MemoryReading(*values) for values in self.memory)


def rank_summary(rows: list[BlockRow], works: tuple[RankWork, ...]) -> list[dict[str, Any]]:
    """Summarise each rank: mean milliseconds a block in its steps, in decoding, and waiting for the rank before it."""
    summary = []
    for work in works:
        waits = [row.wait_ms[work.rank] for row in rows if len(row.wait_ms) > work.rank]
        summary.append(
            {
                "rank": work.rank,
                "role": work.role,
                "step_ms": [round(float(np.mean([row.step_ms[step] for row in rows])), 3) for step in work.steps],
                "decode_ms": round(float(np.mean([row.decode_ms for row in rows])), 3) if work.decodes else None,
                "wait_ms": round(float(np.mean(waits)), 3) if waits else 0.0,
            }
        )
    return summary


def memory_summary(rows: list[BlockRow]) -> dict[str, Any]:
    """Summarise memory: the most that each rank, its machine and its GPU used, in GB, and the warnings.

    Rows may have different numbers of ranks: a job goes on with others than it was begun with.
    """
    ranks = []
    for rank in range(max((len(row.memory) for row in rows), default=0)):
        readings = [row.readings[rank] for row in rows if len(row.memory) > rank]
        most = {name: max(getattr(one, name) for one in readings) for name in ("process", "host_used", "gpu_used")}
        gpu = {"gpu_gb": most["gpu_used"], "gpu_total_gb": readings[0].gpu_total} if readings[0].gpu_total else {}
        host = {"host_gb": most["host_used"], "host_total_gb": readings[0].host_total}
        rounded = {name: round(value, 3) for name, value in {"process_gb": most["process"], **host, **gpu}.items()}
        ranks.append({"rank": rank, **rounded})
    warnings: dict[str, str] = {}
    for row in rows:
        warnings = shortages(row.readings) | warnings  # as it was first said
    return {"ranks": ranks, "warnings": list(warnings.values())}


def timing_summary(rows: list[BlockRow], num_frames: int, render_s: float) -> dict[str, float | int | None]:
    """Compute the `timing` numbers of a report that come from the block loop.

    `ttff_s` is the time from the start of the job, model loaded, to the first block's frames in the video. Block b
    misses its deadline when its frames are ready later than `ttff_s + 0.48 b` seconds: a viewer who pressed play at
    the first frame would have waited. `live_delay_ms_p50` and `_max`, where sound arrived while it was rendered: from
    the last sample that a block needs to its frames in the video. p50 and p99 are over all blocks, with linear
    interpolation.
    """
    block_ms = np.array([row.block_ms for row in rows])
    first = rows[0].ready_s
    misses = sum(row.ready_s > first + row.block * BLOCK_SECONDS for row in rows)
    delays = [row.delay_ms for row in rows if row.delay_ms is not None]
    live = {"live_delay_ms_p50": float(np.percentile(delays, 50)), "live_delay_ms_max": max(delays)} if delays else {}
    return {
        **{name: round(value, 3) for name, value in live.items()},
        "ttff_s": round(first, 4),
        "block_ms_p50": round(float(np.percentile(block_ms, 50)), 3),
        "block_ms_p99": round(float(np.percentile(block_ms, 99)), 3),
        "deadline_misses": int(misses),
        "fps": round(num_frames / render_s, 3),
        "ms_per_frame": round(1000 * render_s / num_frames, 3),
    }
