"""Speed: pace of whole blocks, each step, each decode, first frames; and where the time goes.

Times are seconds. Rings are full from the fourth block on; earlier blocks are left out of the pace.
"""

import hashlib
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from liveavatar.bench.gpu.build import BenchEngine, Mode, bench_job, fast_engine, plain_engine, release
from liveavatar.config import ModelConfig
from liveavatar.engine.job import Block
from liveavatar.planning.costs import dit_costs, vae_costs
from liveavatar.timing import BLOCK_FRAMES

WARM_BLOCKS = 6  # until rings are full, and past the first change of the reference
TERA = 1e12


def measure_fast(
    config: ModelConfig, mode: Mode, size: tuple[int, int], blocks: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Measure the speed of a mode at (width, height) over `blocks` blocks with full rings."""
    started = time.perf_counter()
    engine = fast_engine(config, mode, device, dtype)
    _wait(device)
    built = time.perf_counter()
    next(iter(engine.open(bench_job(config, size, WARM_BLOCKS)).blocks()))
    cold = time.perf_counter() - built
    _reset_peak(device)
    result = {"mode": mode.name, "size": f"{size[0]}*{size[1]}", "build_s": built - started, "cold_first_frame_s": cold}
    result |= measure_pace(engine, config, size, blocks)
    result |= {"peak_gib": _peak(device), "still_s": _still(engine, config, size, device)}
    result |= {"sequential": _sequential(engine, config, size)}
    result |= _shares(config, size, result)
    if device.type == "cuda":
        result["breakdown"] = _profile(engine, config, size)
    return result


def measure_pace(
    engine: Any,
    config: ModelConfig,
    size: tuple[int, int],
    blocks: int,
    kept: list[Block] | None = None,
    warm: int = WARM_BLOCKS,
    steps: int = 4,
) -> dict[str, Any]:
    """Measure the pace of a stream over `blocks` blocks after `warm` others; they go to `kept`, without frames.

    One more is made and not counted: beside the last block's decoding nothing is denoised, so it is ready early.
    """
    last = warm + blocks
    job = bench_job(config, size, last + 1, steps)
    started = time.perf_counter()
    stream = engine.open(job)
    opened = time.perf_counter() - started
    marks, step_s, decodes, digest = [], [], [], hashlib.sha256()
    for block in stream.blocks():
        marks.append(time.perf_counter())
        if block.index < WARM_BLOCKS:
            digest.update(block.latents.numpy().tobytes())
        if warm <= block.index < last:
            step_s.append(block.step_s)
            decodes.append(block.decode_s)
            if kept is not None:
                kept.append(replace(block, frames=None))
    stream.close()
    pace = np.diff(marks)[warm - 1 : -1]
    p50, p99 = (float(np.percentile(pace, p)) for p in (50, 99))
    return {
        "fps": BLOCK_FRAMES * len(pace) / float(pace.sum()),
        "blocks": len(pace),
        "block_p50_s": p50,
        "block_p99_s": p99,
        "p99_over_p50": p99 / p50,
        "step_s": float(np.median(step_s)),
        "decode_s": float(np.median(decodes)),
        "open_s": opened,
        "first_frame_s": marks[0] - started,
        "latents": digest.hexdigest()[:12],  # of the first blocks: the same wherever they are made
    }


def _still(engine: BenchEngine, config: ModelConfig, size: tuple[int, int], device: torch.device) -> float:
    """Seconds to encode the picture, a part of the first frame's."""
    image = bench_job(config, size, 1).image
    _wait(device)
    started = time.perf_counter()
    engine.backend.still_latents(image)
    _wait(device)
    return time.perf_counter() - started


def _sequential(engine: BenchEngine, config: ModelConfig, size: tuple[int, int]) -> dict[str, float]:
    """Blocks one at a time, decoder not overlapped: what a step and a decode cost alone."""
    stream = engine.open(bench_job(config, size, WARM_BLOCKS + 4))
    made = [stream.next_block() for _ in range(WARM_BLOCKS + 4)][WARM_BLOCKS:]
    step, decode = (float(np.median(x)) for x in ([b.step_s for b in made], [b.decode_s for b in made]))
    return {
        "step_s": step,
        "decode_s": decode,
        "fps": BLOCK_FRAMES / (sum(np.mean([b.step_s for b in made], axis=0)) + decode),
    }


def _shares(config: ModelConfig, size: tuple[int, int], measured: dict[str, Any]) -> dict[str, Any]:
    """Compute the rates from the measured times."""
    dit = dit_costs(config.dit, *size, config.vae.spatial_stride)
    vae = vae_costs(config.vae, config.dit.motion_latents, *size)
    alone = measured["sequential"]
    flop = dit.linear_flop + dit.attention_flop + dit.other_flop
    return {
        "step_tflop": flop / TERA,
        "step_tflops": flop / TERA / alone["step_s"],
        "decode_tflops": vae.decode_flop / TERA / alone["decode_s"],
    }


KINDS = (
    ("decoder convolutions", ("conv", "cudnn::cnn", "implicit_gemm", "xmma_fprop", "sm90_xmma_fprop", "wgrad", "nhwc")),
    ("attention", ("sdpa", "flash", "fmha", "attention", "_attend")),
    ("linears", ("gemm", "nvjet", "cutlass", "cublas", "scaled_mm", "matmul")),
    ("fused kernels", ("_add_norm", "_rows", "_rms", "_rope", "_slots", "_write", "_add_bias", "_enlarge")),
)


def kind_of(kernel: str) -> str:
    """Name the part of the work that a kernel belongs to."""
    name = kernel.lower()
    if name.startswith(("memcpy", "memset")):
        return "copies"
    return next((kind for kind, marks in KINDS if any(m in name for m in marks)), "other elementwise")


def _profile(engine: BenchEngine, config: ModelConfig, size: tuple[int, int]) -> dict[str, Any]:
    """Seconds of GPU time of one steady block by kind of kernel, without overlap; "gaps" is the rest."""
    from torch.profiler import ProfilerActivity, profile

    stream = engine.open(bench_job(config, size, WARM_BLOCKS + 2))
    for _ in range(WARM_BLOCKS):
        stream.next_block()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU], acc_events=True) as profiler:
        started = time.perf_counter()
        block = stream.next_block()
        torch.cuda.synchronize()
        wall = time.perf_counter() - started
    found: dict[str, float] = {}
    slowest: dict[str, float] = {}
    for event in profiler.events():
        if event.device_type != torch.autograd.DeviceType.CUDA:
            continue
        seconds = event.device_time_total / 1e6
        found[kind_of(event.name)] = found.get(kind_of(event.name), 0.0) + seconds
        slowest[event.name[:90]] = slowest.get(event.name[:90], 0.0) + seconds
    top = sorted(slowest.items(), key=lambda item: -item[1])[:14]
    gpu = sum(block.step_s) + block.decode_s
    return {
        "wall_s": wall,
        "by_kind_s": dict(sorted(found.items(), key=lambda item: -item[1])),
        "gaps_s": max(0.0, gpu - sum(found.values())),
        "slowest_s": dict(top),
    }


def measure_plain(
    config: ModelConfig, size: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """The plain engine, as the released code computes: eager, unfused; a few blocks with full rings."""
    engine = plain_engine(config, device, dtype)
    _reset_peak(device)
    stream = engine.open(bench_job(config, size, 7))
    marks = []
    for _ in range(7):
        stream.next_block()
        _wait(device)
        marks.append(time.perf_counter())
    pace = float(np.median(np.diff(marks)[-3:]))
    where = {"mode": "plain, eager", "size": f"{size[0]}*{size[1]}"}
    return where | {"fps": BLOCK_FRAMES / pace, "block_p50_s": pace, "peak_gib": _peak(device)}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def _peak(device: torch.device) -> float:
    """Read the GiB allocated at most since the last reset; 0 on a CPU."""
    return torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0


__all__ = ["measure_fast", "measure_pace", "measure_plain", "release"]
