"""Load a model directory for one GPU: weights go to it, or stay in pinned host memory, already fused and quantised."""

import logging
from dataclasses import replace
from pathlib import Path

import torch

from liveavatar.checkpoints.load import LoadedModel, load_model
from liveavatar.config import DiTConfig
from liveavatar.engine.device import memory_share
from liveavatar.errors import CapacityError
from liveavatar.fast import ops
from liveavatar.fast.attention import FastAttention
from liveavatar.fast.dit import accelerate
from liveavatar.model.dit import CausalDiT
from liveavatar.model.meta import without_memory

_HEADROOM = 1.1  # of free memory over the unquantised weights

log = logging.getLogger(__name__)


def dit_bytes(cfg: DiTConfig, layers: range | None = None) -> int:
    """Bytes of a transformer's weights in 16 bits, of some layers or all."""
    with without_memory():
        dit = CausalDiT(cfg)
    if layers is not None:
        dit.keep_layers(layers)
    return 2 * sum(p.numel() for p in dit.parameters())


def load_fast_model(
    model_dir: Path,
    device: torch.device,
    dtype: torch.dtype,
    parts: tuple[str, ...],
    *,
    fp8: bool = False,
    offload: bool = False,
    attention: FastAttention | None = None,
    layers: range | None = None,
) -> LoadedModel:
    """Load networks of a model on a GPU.

    Args:
        model_dir: directory with config.json and weights.
        device: the GPU.
        dtype: of everything that is not in 8 bits.
        parts: names of the networks: "dit", "vae", "text".
        fp8: linear layers of the transformer in 8 bits.
        offload: layers of the transformer stay in host memory and arrive one ahead of their use.
        attention: chooses backends; None for a process that renders alone.
        layers: of the transformer that are loaded; None: all.

    Raises:
        CheckpointError: the directory is incomplete or damaged.
        CapacityError: the GPU cannot do what was asked.
    """
    reason = ops.has_fp8(device) if fp8 else None
    if reason:
        raise CapacityError(f"--fp8: {reason}; drop --fp8, or use a GPU of compute capability 8.9 or more")
    others = load_model(model_dir, device, dtype, tuple(part for part in parts if part != "dit"))
    if "dit" not in parts:
        return others
    try:
        # Quantising begins from bf16: where that is too much for the GPU it waits on the host.
        whole = dit_bytes(others.config.dit, layers)
        roomy = not fp8 or _free_bytes(device) > _HEADROOM * whole
        loaded = load_model(model_dir, device if roomy and not offload else "cpu", dtype, ("dit",), layers)
        dit = accelerate(loaded.dit, device=device, fp8=fp8, offload=offload, attention=attention)
    except torch.OutOfMemoryError as e:
        raise CapacityError(
            f"{model_dir.name} does not fit the memory of {torch.cuda.get_device_name(device)}; "
            "try --offload_model True, and see `liveavatar plan` for what fits"
        ) from e
    log.info("fast path: linears in %s", "fp8" if fp8 else dtype)
    return replace(others, dit=dit)


def _free_bytes(device: torch.device) -> float:
    """Return the free memory of a GPU, without the share that this process leaves to others."""
    free, total = torch.cuda.mem_get_info(device)
    return free - (1 - memory_share(device)) * total
