"""The released layout: Wan2.2-S2V-14B as published, with the Live Avatar LoRA beside it.

A base directory holds config.json (class WanModel_S2V), diffusion_pytorch_model-*.safetensors,
Wan2.1_VAE.pth, models_t5_umt5-xxl-enc-bf16.pth, google/umt5-xxl and wav2vec2-large-xlsr-53-english. The
LoRA, liveavatar.safetensors, lies in the same directory, or in any directory beside or below it. A model
directory is the base directory or its parent.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liveavatar.checkpoints.lora import RELEASED_ALPHA, LowRank, check_targets, parse_lora
from liveavatar.checkpoints.weight_files import part_files, read_pickle, read_tensors, shapes_of
from liveavatar.config import LIVE_AVATAR_14B, DiTConfig, ModelConfig, typed_fields
from liveavatar.errors import CheckpointError
from liveavatar.files import read_json

CLASS_NAME = "WanModel_S2V"
DIT_STEM = "diffusion_pytorch_model"
VAE_NAME = "Wan2.1_VAE.pth"
TEXT_NAME = "models_t5_umt5-xxl-enc-bf16.pth"
TOKENIZER_NAME = "google/umt5-xxl"
SPEECH_NAME = "wav2vec2-large-xlsr-53-english"
LORA_NAME = "liveavatar.safetensors"
_AUDIO_MIX = "casual_audio_encoder.weights"  # [1, hidden states, 1, 1]
_BASE_WIDTH = 96  # of the released autoencoder's first stage


def base_dir(model_dir: Path) -> Path | None:
    """Find the directory with the released config.json: `model_dir` itself or one of its children."""
    for path in (model_dir, *(sorted(p for p in model_dir.glob("*") if p.is_dir()) if model_dir.is_dir() else ())):
        if _class_name(path / "config.json") == CLASS_NAME:
            return path
    return None


def _class_name(path: Path) -> str | None:
    try:
        raw = read_json(path)
    except (OSError, ValueError):
        return None
    return raw.get("_class_name") if isinstance(raw, dict) else None


def is_released(model_dir: Path) -> bool:
    """Return whether the directory is in the released layout."""
    return base_dir(model_dir) is not None


def _base(model_dir: Path) -> Path:
    base = base_dir(model_dir)
    assert base is not None, f"{model_dir} is not in the released layout"
    return base


def read_released_config(model_dir: Path) -> ModelConfig:
    """Read the config of a released directory: the 14B preset with the dimensions of its config.json.

    Raises:
        CheckpointError: when config.json asks for something the engine does not have.
    """
    base = _base(model_dir)
    dit = dit_config(read_json(base / "config.json"))
    mix = shapes_of(part_files(base, DIT_STEM)).get(_AUDIO_MIX)
    if mix is not None:
        dit = replace(dit, audio_layers=mix[1])
    vae = LIVE_AVATAR_14B.vae
    if vae_path(model_dir).is_file():
        width = vae_tensors(model_dir).get("encoder.conv1.weight", torch.empty(_BASE_WIDTH)).shape[0]
        scaled: dict[str, Any] = {
            name: tuple(w * width // _BASE_WIDTH for w in getattr(vae, name))
            for name in ("encoder_widths", "decoder_widths")
        }
        vae = replace(vae, **scaled)
    return replace(
        LIVE_AVATAR_14B,
        dit=dit,
        vae=vae,
        text=replace(LIVE_AVATAR_14B.text, dim=dit.text_dim, length=dit.text_len),
        speech=replace(LIVE_AVATAR_14B.speech, dim=dit.audio_dim, num_states=dit.audio_layers),
    )


def dit_config(raw: Mapping[str, Any]) -> DiTConfig:
    """Convert a released config.json to our transformer config; missing keys keep the 14B's value.

    Raises:
        CheckpointError: when it switches on something the engine does not have.
    """
    supported = {
        "enable_adain": True, "adain_mode": "attn_norm", "zero_timestep": True, "enable_motioner": False,
        "enable_framepack": True, "framepack_drop_mode": "padd", "add_last_motion": True, "enable_tsm": False,
    }  # fmt: skip
    other = {k: raw[k] for k, v in supported.items() if raw.get(k, v) != v}
    if other:
        raise CheckpointError(
            f"config.json sets {other}, which the released Live Avatar does not use and this engine does not have; "
            "give the published Wan2.2-S2V-14B"
        )
    names = {f.name for f in fields(DiTConfig)} - {"patch"}
    try:
        dimensions = typed_fields(DiTConfig, {k: v for k, v in raw.items() if k in names})
    except ValueError as e:
        raise CheckpointError(f"config.json is damaged ({e}); give the published Wan2.2-S2V-14B") from e
    return replace(LIVE_AVATAR_14B.dit, **dimensions)


def dit_files(model_dir: Path) -> list[Path]:
    """List the weight files of the transformer.

    Raises:
        CheckpointError: when some are missing.
    """
    base = _base(model_dir)
    files = part_files(base, DIT_STEM)
    if not files:
        raise CheckpointError(f"{base} has no {DIT_STEM}-*.safetensors; run `liveavatar models fetch live-avatar-14b`")
    return files


def vae_path(model_dir: Path) -> Path:
    """Return the path of the autoencoder's weights."""
    return _base(model_dir) / VAE_NAME


def vae_tensors(model_dir: Path) -> dict[str, Tensor]:
    """Read the weights of the autoencoder.

    Raises:
        CheckpointError: when the file is missing or damaged.
    """
    path = vae_path(model_dir)
    if not path.is_file():
        raise CheckpointError(f"{path.parent} has no {VAE_NAME}; run `liveavatar models fetch live-avatar-14b`")
    return read_pickle(path)


def text_files(model_dir: Path) -> tuple[Path, Path]:
    """Return (weights of the prompt encoder, directory of its tokenizer).

    Raises:
        CheckpointError: when one is missing.
    """
    base = _base(model_dir)
    for path in (base / TEXT_NAME, base / TOKENIZER_NAME):
        if not path.exists():
            raise CheckpointError(
                f"{base} has no {path.relative_to(base)}; run `liveavatar models fetch live-avatar-14b`"
            )
    return base / TEXT_NAME, base / TOKENIZER_NAME


def speech_dir(model_dir: Path) -> Path:
    """Return the directory of the speech encoder; its content is checked by `load_wav2vec2`."""
    return _base(model_dir) / SPEECH_NAME


def find_lora(model_dir: Path) -> Path | None:
    """Find the LoRA file: in the base directory, or in a directory beside or below it."""
    base = _base(model_dir)
    # Siblings of the base count only when `model_dir` is its parent: above that, a file may belong to another model.
    roots = [base] if base == model_dir else [base, model_dir]
    candidates = [root / LORA_NAME for root in roots] + [
        p for root in roots for p in sorted(root.glob(f"*/{LORA_NAME}"))
    ]
    return next((p for p in candidates if p.is_file()), None)


def lora_updates(model_dir: Path, shapes: Mapping[str, torch.Size]) -> dict[str, LowRank]:
    """Read the LoRA that turns the base transformer into the few-step one.

    Raises:
        CheckpointError: when the file is missing, damaged or for another model.
    """
    path = find_lora(model_dir)
    if path is None:
        raise CheckpointError(
            f"{model_dir} has no {LORA_NAME}, and the base model alone cannot sample in a few steps; put the file of "
            "Quark-Vision/Live-Avatar there, or run `liveavatar models fetch live-avatar-14b`"
        )
    return read_lora(path, shapes)


def read_lora(path: Path, shapes: Mapping[str, torch.Size]) -> dict[str, LowRank]:
    """Read a LoRA file and compare it with the weights that it changes.

    The strength is alpha of adapter_config.json beside the file (PEFT's `lora_alpha`), else the published 64.

    Raises:
        CheckpointError: when the file is missing, damaged or for another model.
    """
    alpha, rank = RELEASED_ALPHA, None
    adapter = path.parent / "adapter_config.json"
    if adapter.is_file():
        try:
            settings = read_json(adapter)
            alpha, rank = float(settings["lora_alpha"]), int(settings["r"])
        except (ValueError, KeyError, TypeError) as e:
            raise CheckpointError(
                f"{adapter} does not give r and lora_alpha ({type(e).__name__}: {e}); correct or remove it"
            ) from e
    updates = parse_lora(dict(read_tensors([path])), alpha, rank)
    check_targets(updates, shapes)
    return updates
