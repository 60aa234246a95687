"""Memory: peaks by weights, rings and size beside the planner's prediction; and runs under a cap."""

import time
from typing import Any

import torch

from liveavatar.bench.gpu.build import BenchEngine, Mode, bench_job, fast_engine, release
from liveavatar.config import ModelConfig
from liveavatar.engine.placement import RankWork
from liveavatar.engine.settings import RenderSettings
from liveavatar.hardware import GB, Gpu, Machine, gpu_of
from liveavatar.planning.memory import MemoryModel
from liveavatar.planning.request import PlanRequest
from liveavatar.timing import BLOCK_FRAMES

_BLOCKS = 6  # rings full, reference changed


def predicted(config: ModelConfig, mode: Mode, size: tuple[int, int], gpu: Gpu) -> dict[str, float]:
    """Predict the parts of one GPU's memory as the planner does, in GiB, with "allocated" and "total"."""
    load = memory_model(config, mode, size, (gpu,)).loads("single")[0]
    return {**load.breakdown, "allocated": load.allocated, "total": load.total}


def predicted_ranks(
    config: ModelConfig, mode: Mode, size: tuple[int, int], ranks: tuple[RankWork, ...], gpu: Gpu
) -> list[float]:
    """Predict what ranks with these shares allocate at most, each on a GPU of a kind, in GiB."""
    return [load.allocated for load in memory_model(config, mode, size, (gpu,) * len(ranks)).rank_loads(ranks)]


def memory_model(config: ModelConfig, mode: Mode, size: tuple[int, int], gpus: tuple[Gpu, ...]) -> MemoryModel:
    """Make the planner's model of a job of a mode at (width, height) on some GPUs."""
    request = PlanRequest(
        width=size[0],
        height=size[1],
        num_frames=480,
        settings=RenderSettings(prompt="", fp8=mode.fp8, kv_cache_dtype=mode.kv_cache_dtype),
        offload=mode.offload,
    )
    return MemoryModel(config, request, Machine(gpus=gpus, cores=1, host_gb=1e6, disk_gb=1e6))


def measure_memory(
    config: ModelConfig, engine: BenchEngine, mode: Mode, size: tuple[int, int], device: torch.device
) -> dict[str, Any]:
    """Measure the peak of a stream at (width, height), weights included, beside the prediction."""
    engine.mode = mode
    engine.forget_sizes()
    release()
    for _ in engine.open(bench_job(config, size, _BLOCKS)).blocks():
        pass
    cuda = device.type == "cuda"
    measured = torch.cuda.max_memory_allocated() / GB if cuda else 0.0
    gpu = gpu_of(torch.cuda.get_device_name(device) if cuda else "H200", 141.0)
    guess = predicted(config, mode, size, gpu)
    return {
        "mode": mode.name,
        "size": f"{size[0]}*{size[1]}",
        "allocated_gib": measured,
        "reserved_gib": torch.cuda.max_memory_reserved() / GB if cuda else 0.0,
        "predicted_gib": guess["allocated"],
        "off": guess["allocated"] / measured - 1 if measured else None,
        "predicted_parts": guess,
    }


def measure_capped(
    config: ModelConfig, mode: Mode, size: tuple[int, int], cap_gb: float, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Measure a stream under a cap of GPU memory, which is set once the random weights are made."""
    release()
    engine = fast_engine(config, mode, device, dtype)
    release()
    cuda = device.type == "cuda"
    if cuda:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, cap_gb * 1e9 / total), torch.cuda.current_device())
    result: dict[str, Any] = {"mode": mode.name, "size": f"{size[0]}*{size[1]}", "cap_gb": cap_gb}
    try:
        marks = []
        for _ in engine.open(bench_job(config, size, _BLOCKS + 4)).blocks():
            marks.append(time.perf_counter())
        pace = (marks[-2] - marks[-5]) / 3  # the last block is ready early: nothing is denoised beside its decoding
        result |= {"fits": True, "fps": BLOCK_FRAMES / pace}
    except torch.OutOfMemoryError as e:
        result |= {"fits": False, "error": str(e).splitlines()[0]}
    finally:
        if cuda:
            torch.cuda.set_per_process_memory_fraction(1.0, torch.cuda.current_device())
    result["reserved_gib"] = torch.cuda.max_memory_reserved() / GB if cuda else 0.0
    return result
