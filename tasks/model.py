"""What the stages need to know of a model directory: its config and its digest."""

import json
from pathlib import Path

from liveavatar.config import ModelConfig, load_config


def config_of(model_dir: Path) -> ModelConfig:
    """Config of a model directory, our own layout or the released one; torch is loaded for the latter only.

    Raises:
        CheckpointError: when it holds no usable config.
    """
    if _is_ours(model_dir):
        return load_config(model_dir)
    from liveavatar.checkpoint import read_config

    return read_config(model_dir)


def digest_of(model_dir: Path) -> str:
    """Digest of a model's config and weights; remembered by size and time of the files.

    Raises:
        CheckpointError: when the directory holds no model.
    """
    from liveavatar.checkpoint import model_digest

    return model_digest(model_dir)


def _is_ours(model_dir: Path) -> bool:
    try:
        return "dit" in json.loads((model_dir / "config.json").read_text())
    except (OSError, ValueError, TypeError):
        return False
