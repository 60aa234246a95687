"""Speed of the engine on this machine, without flows, files or Ray: what `liveavatar bench` prints.

Each variant runs in a process of its own, so that its peak memory is its own. Speed does not depend on the inputs:
the features are noise, the picture is grey.
"""

import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from liveavatar.checkpoints.directory import read_config
from liveavatar.engine.job import StreamJob, TensorFeatures
from liveavatar.engine.settings import RenderSettings
from liveavatar.errors import InputError
from liveavatar.files import rounded
from liveavatar.load import load_engine
from liveavatar.timing import BLOCK_FRAMES, BLOCK_SECONDS

WARM_BLOCKS = 5  # until every ring is full: later blocks cost the same


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Measured speed and memory of one variant."""

    fps: float  # frames per second, steady: median over blocks once the rings are full, decoding included
    ttff_s: float  # opening a stream (picture, prompt, sinks) and making its first block, model loaded
    block_ms_p50: float
    block_ms_p99: float
    deadline_misses: int  # blocks that took longer than 0.48 s
    load_s: float
    peak_rss_mb: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CpuBench:
    """The tuned engine against plain eager fp32, in one run: keys of `liveavatar bench cpu --json`."""

    fps: float
    ttff_s: float
    eager_fps: float
    peak_rss_mb: float
    realtime: float  # fps / 25
    threads: int
    blocks: int
    tuned: Speed
    eager: Speed


def bench_cpu(model_dir: Path, num_blocks: int = 25, sample_steps: int = 4, threads: int | None = None) -> CpuBench:
    """Measure a model on the CPU.

    Args:
        model_dir: usually the embedded mini.
        num_blocks: blocks a variant renders; the first five only warm up.
        sample_steps: denoise steps.
        threads: of torch; all cores when None.

    Raises:
        InputError: there are too few blocks to time one after the warm-up.
    """
    if num_blocks <= WARM_BLOCKS:
        raise InputError(f"bench --blocks {num_blocks}: the first {WARM_BLOCKS} only warm up; give more")
    threads = threads or torch.get_num_threads()
    context = multiprocessing.get_context("spawn")
    speeds = []
    for dtype, overlap in (("auto", True), ("float32", False)):
        # Unlike a Pool it notices the loss of its process, and starts no other.
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            work = (num_blocks, sample_steps, threads)
            speeds.append(pool.submit(_measure, model_dir, dtype, overlap, work).result())
    tuned, eager = speeds
    return CpuBench(
        fps=tuned.fps,
        ttff_s=tuned.ttff_s,
        eager_fps=eager.fps,
        peak_rss_mb=tuned.peak_rss_mb,
        realtime=tuned.fps * BLOCK_SECONDS / BLOCK_FRAMES,
        threads=threads,
        blocks=num_blocks,
        tuned=tuned,
        eager=eager,
    )


def to_json(bench: CpuBench) -> dict[str, object]:
    """Convert to plain numbers, rounded to what the measurement carries."""
    return dict(rounded(asdict(bench)))


def _measure(model_dir: Path, dtype: str, overlap: bool, work: tuple[int, int, int]) -> Speed:
    num_blocks, sample_steps, threads = work
    torch.set_num_threads(threads)
    started = time.perf_counter()
    engine = load_engine(model_dir, device="cpu", dtype=dtype)
    engine.backend.shares_threads = overlap
    load_s = time.perf_counter() - started
    cfg = read_config(model_dir)
    width, height = cfg.default_area
    job = StreamJob(
        image=np.full((height, width, 3), 128, np.uint8),
        settings=RenderSettings(prompt="a calm person speaks to the camera in soft light", sample_steps=sample_steps),
        features=TensorFeatures(
            torch.randn(cfg.dit.audio_layers, cfg.dit.audio_dim, 12 * num_blocks, generator=torch.Generator())
        ),
        num_frames=BLOCK_FRAMES * num_blocks,
    )
    for _ in engine.open(job).blocks():  # allocator, kernels, page cache
        break
    started = time.perf_counter()
    stream = engine.open(job)
    marks = []
    for _ in stream.blocks():
        marks.append(time.perf_counter())
    pace = np.diff(marks)[WARM_BLOCKS - 1 :]
    return Speed(
        fps=BLOCK_FRAMES / statistics.median(pace),
        ttff_s=marks[0] - started,
        block_ms_p50=1000 * float(np.percentile(pace, 50)),
        block_ms_p99=1000 * float(np.percentile(pace, 99)),
        deadline_misses=int((pace > BLOCK_SECONDS).sum()),
        load_s=load_s,
        peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    )
