"""Speech for the audio tests: the repository's sample, else espeak-ng where it is installed."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from liveavatar.audio.encoders.whisper_network import WhisperEncoder, load_encoder
from liveavatar.audio.ingest import load_audio
from liveavatar.paths import REPO_ROOT
from tests.audio.sounds import espeak

SAMPLE = REPO_ROOT / "data" / "samples" / "speech.wav"


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Eight seconds of speech at most, float32 mono 16 kHz."""
    path: Path = SAMPLE
    if not path.is_file():
        if not shutil.which("espeak-ng"):
            pytest.skip("neither data/samples/speech.wav nor espeak-ng is here")
        path = tmp_path_factory.mktemp("speech") / "speech.wav"
        espeak("Good morning. The weather is fine today, and we will talk about a green garden by the river.", path)
    return load_audio(path)[: 8 * 16_000]


@pytest.fixture(scope="session")
def encoder() -> WhisperEncoder:
    """The speech encoder of `mini`."""
    return load_encoder("tiny.en")
