"""Lookup of model directories by name, and reading of their config, in our own layout or the released one.

Loads torch for the released layout only, so that a command can read the embedded model's config at once.
"""

from pathlib import Path

from liveavatar import paths
from liveavatar.config import MINI, PRESETS, ModelConfig
from liveavatar.errors import CheckpointError, InputError
from liveavatar.files import exists, read_bytes, read_json

CONFIG = "config.json"


def preset_dir(preset: str) -> Path:
    """Return the directory of a preset, whether it is there or not."""
    return paths.MINI_DIR if preset == MINI.name else paths.models_home() / preset


def resolve_model_dir(model: str) -> Path:
    """Turn the value of `--model` into a model directory.

    `mini` is the embedded model; another preset is looked up in `paths.models_home()`; anything else is a path.

    Raises:
        InputError: when there is no such directory.
    """
    if model == MINI.name:
        return paths.MINI_DIR
    path = preset_dir(model) if model in PRESETS else Path(model)
    if not (exists(path) and path.is_dir()):
        hint = f"run `liveavatar models fetch {model}`" if model in PRESETS else f"known names: {', '.join(PRESETS)}"
        raise InputError(f"--model {model}: there is no model directory at {path}; {hint}")
    return path


def read_config(model_dir: Path) -> ModelConfig:
    """Read the config of a model directory.

    Raises:
        CheckpointError: when there is none, or it is damaged or of another architecture.
    """
    if not _is_ours(model_dir):
        from liveavatar.checkpoints import released

        if released.is_released(model_dir):
            return released.read_released_config(model_dir)
    path = model_dir / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{model_dir} holds no {CONFIG}; give a model directory, `mini`, or `live-avatar-14b`")
    return ModelConfig.from_json(read_bytes(path))


def _is_ours(model_dir: Path) -> bool:
    try:
        return "dit" in read_json(model_dir / CONFIG)
    except (OSError, ValueError, TypeError):
        return False
