"""The embedded model on a GPU, its own weights: kernel by kernel, and with recorded steps as `load_engine` runs it.

Distances are those of the first blocks' latents from the same stream in fp32.
"""

from typing import Any

import torch
from torch import Tensor

from liveavatar.bench.gpu.build import bench_job, release
from liveavatar.bench.gpu.speed import measure_pace
from liveavatar.checkpoints.directory import resolve_model_dir
from liveavatar.checkpoints.load import load_model
from liveavatar.engine.engine import Engine
from liveavatar.engine.plain import PlainBackend
from liveavatar.engine.prompt_encoder import prompt_encoder
from liveavatar.fast.backend import FastBackend
from liveavatar.fast.load import load_fast_model

SIZES = ((256, 384), (1024, 768))
COMPARED_BLOCKS = 3
PARTS = ("dit", "vae", "text")


def measure_mini(
    sizes: tuple[tuple[int, int], ...], blocks: int, device: torch.device, dtype: torch.dtype
) -> list[dict[str, Any]]:
    """Measure pace and distance at each (width, height) over `blocks` blocks with full rings."""
    rows = []
    for size in sizes:
        expected = first_latents(engine_of("plain", device, torch.float32), size)
        for mode in ("plain", "recorded"):
            release()
            engine = engine_of(mode, device, dtype)
            row = {"mode": mode, "size": f"{size[0]}*{size[1]}"} | measure_pace(engine, engine.config, size, blocks)
            rows.append(row | {"distance": distance(first_latents(engine, size), expected)})
    return rows


def engine_of(mode: str, device: torch.device, dtype: torch.dtype) -> Engine:
    """Load the embedded model: "plain" or "recorded"."""
    folder = resolve_model_dir("mini")
    if mode == "plain":
        loaded = load_model(folder, device, dtype)
        return Engine(PlainBackend(loaded, device), prompt_encoder(loaded, folder, device))
    loaded = load_fast_model(folder, device, dtype, PARTS)
    return Engine(FastBackend(loaded, device), prompt_encoder(loaded, folder, device))


def first_latents(engine: Engine, size: tuple[int, int]) -> Tensor:
    """Make the latents of the first blocks, float32."""
    stream = engine.open(bench_job(engine.config, size, COMPARED_BLOCKS))
    made = [block.latents.float() for block in stream.blocks()]
    stream.close()
    return torch.cat(made)


def distance(latents: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over that of `expected`."""
    return float((latents - expected).norm() / expected.norm())
