"""A folder of our own for commands, with inputs that work."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from tests.flows.cli.commands import RATE


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home" / "prefect"))
    monkeypatch.setenv("LIVEAVATAR_DEBUG", "")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def files(home: Path, tiny_model: Path) -> dict[str, str]:
    """A sound, a picture and a model that work."""
    tone = 0.3 * np.sin(2 * np.pi * 220 * np.arange(RATE) / RATE)
    wavfile.write(home / "voice.wav", RATE, tone.astype(np.float32))
    Image.fromarray(np.full((384, 256, 3), 127, np.uint8)).save(home / "face.png")
    return {"audio": "voice.wav", "image": "face.png", "prompt": "A woman talks.", "model": str(tiny_model)}
