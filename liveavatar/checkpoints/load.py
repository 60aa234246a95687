"""Model directories: loading networks, saving, digests, and the state-dict keys of a preset.

Our own directory is self-describing: `config.json`, `dit.safetensors`, `vae.safetensors` and, when the model
has its own prompt encoder, `text.safetensors`, and the file that `SpeechConfig.tuning` names. Directories in the
released layout (Wan2.2-S2V-14B with the Live Avatar LoRA) are recognised by their config.json, see
`liveavatar.checkpoints.released`.
Weights are memory-mapped and go tensor by tensor to the target device and dtype.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from liveavatar.checkpoints import released
from liveavatar.checkpoints.checksums import file_sha256, list_written
from liveavatar.checkpoints.directory import read_config
from liveavatar.checkpoints.lora import LowRank
from liveavatar.checkpoints.tuning import tuning_file
from liveavatar.checkpoints.weight_files import (
    check_keys,
    module_shapes,
    part_files,
    read_tensors,
    shapes_of,
    write_part,
)
from liveavatar.config import ModelConfig
from liveavatar.errors import CheckpointError
from liveavatar.files import write_atomically
from liveavatar.model.dit import CausalDiT
from liveavatar.model.meta import without_memory
from liveavatar.model.text import PromptEncoder
from liveavatar.model.vae import build_vae

PARTS = ("dit", "vae", "text")
WEIGHT_SUFFIXES = (".safetensors", ".pth")
ALIGNMENT = 64  # bytes, of memory that torch allocates on a CPU


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """A model's config and the requested networks, in eval mode, without gradients."""

    config: ModelConfig
    dit: Any = None  # CausalDiT
    vae: Any = None  # a liveavatar.model.vae.VideoVAE
    text: Any = None  # PromptEncoder; None for a model whose prompt encoder is transformers'


def load_model(
    model_dir: Path,
    device: torch.device | str,
    dtype: torch.dtype,
    parts: Iterable[str] = PARTS,
    layers: range | None = None,
) -> LoadedModel:
    """Load networks of a model directory.

    Args:
        model_dir: our own directory, or one in the released layout.
        device: of the weights.
        dtype: of the weights.
        parts: of "dit", "vae", "text".
        layers: of the transformer, which are read and no others; None: all. See `CausalDiT.keep_layers`.

    Raises:
        CheckpointError: when a file is missing or damaged, or names or shapes do not fit the config.
    """
    config = read_config(model_dir)
    networks: dict[str, nn.Module] = {}
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"unknown part {part!r}")
        if part == "text" and not config.text.resident:
            continue
        networks[part] = _load_part(model_dir, config, part, torch.device(device), dtype, layers)
    return LoadedModel(config=config, **networks)


def check_model(model_dir: Path, parts: Iterable[str] = PARTS) -> int:
    """Check that a model directory is complete, by names and shapes, without reading the weights.

    Returns:
        Number of weights of the parts.

    Raises:
        CheckpointError: when a file is missing or damaged, or names or shapes do not fit the config.
    """
    config = read_config(model_dir)
    total = 0
    for part in parts:
        if part == "text" and not config.text.resident:
            continue
        shapes = _shapes_of_part(config, part)
        _sources(model_dir, part, shapes)
        total += sum(s.numel() for s in shapes.values())
    if (tuning := tuning_file(config.speech, model_dir)) is not None:
        shapes_of([tuning])
    return total


def _load_part(
    model_dir: Path, config: ModelConfig, part: str, device: torch.device, dtype: torch.dtype, layers: range | None
) -> nn.Module:
    tensors, updates = _sources(model_dir, part, _shapes_of_part(config, part))
    network = build_part(config, part)
    if isinstance(network, CausalDiT) and layers is not None:
        network.keep_layers(layers)
        wanted = network.state_dict().keys()
        tensors = (item for item in tensors if item[0] in wanted)
    return _fill(network, tensors, updates, device, dtype)


def _shapes_of_part(config: ModelConfig, part: str) -> dict[str, torch.Size]:
    """Compute names and shapes of a network's weights without memory for them.

    Raises:
        CheckpointError: the config describes no network.
    """
    try:
        with without_memory():
            return module_shapes(build_part(config, part))
    except (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError, AssertionError) as e:
        reason = str(e).split("\n")[0] or type(e).__name__
        raise CheckpointError(f"config.json describes no {part} that can be built ({reason}); correct it") from e


def _sources(
    model_dir: Path, part: str, shapes: Mapping[str, torch.Size]
) -> tuple[Iterable[tuple[str, Tensor]], Mapping[str, LowRank]]:
    """Return a part's weights, as an iterator, and their LoRA updates, after a check of names and shapes."""
    updates: Mapping[str, LowRank] = {}
    if released.is_released(model_dir):
        if part == "vae":
            tensors = released.vae_tensors(model_dir)
            check_keys(str(released.vae_path(model_dir)), {k: v.shape for k, v in tensors.items()}, shapes)
            return tensors.items(), updates
        files, updates = released.dit_files(model_dir), released.lora_updates(model_dir, shapes)
    else:
        files = part_files(model_dir, part)
        if not files:
            raise CheckpointError(
                f"{model_dir} has no {part}.safetensors; fetch the model again, or export it from training"
            )
    check_keys(f"{model_dir / part}", shapes_of(files), shapes)
    return read_tensors(files), updates


def build_part(config: ModelConfig, part: str) -> nn.Module:
    """Build an untrained network of a model: "dit" on the meta device, "vae" or "text" in memory."""
    if part == "dit":
        with without_memory():
            return CausalDiT(config.dit)
    return build_vae(config.vae) if part == "vae" else PromptEncoder(config.text)


def _fill(
    network: nn.Module,
    tensors: Iterable[tuple[str, Tensor]],
    updates: Mapping[str, LowRank],
    device: torch.device,
    dtype: torch.dtype,
) -> nn.Module:
    """Assign weights to a network, each merged with its LoRA update, if any, and converted."""
    network = network.to(dtype)
    placed = {}
    for key, tensor in tensors:
        # Merge before rounding to the target dtype: an update may be smaller than a bf16 step of the weight.
        merged = updates[key].apply(tensor.to(device, torch.float32)) if key in updates else tensor
        weight = merged.to(device=device, dtype=dtype if merged.is_floating_point() else merged.dtype)
        # Memory-mapped tensors may be unaligned, and MKL then sums in another order than in memory torch allocated.
        placed[key] = weight.clone() if weight.data_ptr() % ALIGNMENT else weight
    network.load_state_dict(placed, assign=True)
    network.to(device)
    return network.eval().requires_grad_(False)


def save_model(
    model_dir: Path,
    config: ModelConfig,
    state_dicts: Mapping[str, Mapping[str, Tensor]],
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a model directory in our own layout.

    Args:
        model_dir: made if it does not exist; files of the same parts are replaced, and listed in checksums.json.
        config: becomes config.json.
        state_dicts: weights by part, "dit", "vae", "text".
        dtype: floating-point weights are stored in it.

    Raises:
        CheckpointError: when weights do not fit the config.
    """
    model_dir.mkdir(parents=True, exist_ok=True)
    written = [model_dir / "config.json"]
    for part, weights in state_dicts.items():
        check_keys(
            f"the {part} to save", {k: v.shape for k, v in weights.items()}, module_shapes(build_part(config, part))
        )
        stored = {k: v.detach().to(dtype) if v.is_floating_point() else v.detach() for k, v in weights.items()}
        written += write_part(model_dir, part, stored)
    write_atomically(written[0], config.to_json())
    list_written(model_dir, written)


def model_digest(model_dir: Path) -> str:
    """Return the sha256 over config.json and every weight file of a model directory, names included.

    Raises:
        CheckpointError: when the directory holds no model.
    """
    if not (model_dir / "config.json").is_file() and not released.is_released(model_dir):
        raise CheckpointError(f"{model_dir} holds no config.json; give a model directory, `mini`, or `live-avatar-14b`")
    files = sorted(
        p for p in model_dir.rglob("*") if p.is_file() and (p.name == "config.json" or p.suffix in WEIGHT_SUFFIXES)
    )
    entries = [[p.relative_to(model_dir).as_posix(), file_sha256(p)] for p in files]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def dit_keys(config: ModelConfig) -> list[tuple[str, tuple[int, ...]]]:
    """List every state-dict key of a model's transformer with its shape; no memory is allocated."""
    return [(k, tuple(s)) for k, s in module_shapes(build_part(config, "dit")).items()]
