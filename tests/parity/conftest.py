"""Fixtures: the trimmed reference set."""

import shutil
from pathlib import Path

import pytest

TRIMMED = Path(__file__).parent


@pytest.fixture
def trimmed(tmp_path: Path) -> Path:
    """The trimmed set without the half of an autoencoder, which `test_vae_wan` checks."""
    for path in TRIMMED.glob("*.safetensors"):
        if not path.name.startswith("vae_"):
            shutil.copy(path, tmp_path)
    return tmp_path
