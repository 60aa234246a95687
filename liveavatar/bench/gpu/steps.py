"""Fewer denoise steps: pace and first frame of a mode at each number of steps.

Times are seconds. A first frame counts from a portrait and a prompt to 12 decoded frames, the model loaded; it is the
median of several, for one alone wanders by a tenth.
"""

import time
from typing import Any

import numpy as np
import torch

from liveavatar.bench.gpu.build import BenchEngine, Mode, bench_job, fast_engine
from liveavatar.bench.gpu.speed import WARM_BLOCKS, measure_pace
from liveavatar.config import ModelConfig

STEPS = (4, 3)
FIRST_FRAMES = 7


def measure_steps(
    config: ModelConfig, mode: Mode, size: tuple[int, int], blocks: int, device: torch.device, dtype: torch.dtype
) -> list[dict[str, Any]]:
    """Measure a mode at (width, height): a row for each of `STEPS`, over `blocks` blocks with full rings."""
    engine = fast_engine(config, mode, device, dtype)
    rows: list[dict[str, Any]] = []
    for steps in STEPS:
        next(iter(engine.open(bench_job(config, size, WARM_BLOCKS, steps)).blocks()))  # kernels compile, graphs record
        pace = measure_pace(engine, config, size, blocks, steps=steps)
        rows.append(
            {"mode": mode.name, "size": f"{size[0]}*{size[1]}", "sample_steps": steps}
            | pace
            | {"first_frame_s": first_frame(engine, config, size, steps)}
        )
    return rows


def first_frame(engine: BenchEngine, config: ModelConfig, size: tuple[int, int], steps: int) -> float:
    """Measure the median time from opening a stream to its first frames."""
    seconds = []
    for _ in range(FIRST_FRAMES):
        started = time.perf_counter()
        stream = engine.open(bench_job(config, size, WARM_BLOCKS, steps))
        next(iter(stream.blocks()))
        seconds.append(time.perf_counter() - started)
        stream.close()
    return float(np.median(seconds))
