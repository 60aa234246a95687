"""Portraits and puppets for the quality tests."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from liveavatar.config import REPO_ROOT
from tests.quality.puppet import Puppet, babble

SAMPLE = REPO_ROOT / "data" / "samples" / "portrait.png"
AVATARS = REPO_ROOT.parent / "shared" / "assets" / "avatars.png"  # six rendered heads, 256x384 tiles
SHARED_SPEECH = REPO_ROOT.parent / "shared" / "assets" / "speech.mp4"


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """A rendered head looking at the camera, mouth shut, uint8 RGB."""
    if SAMPLE.is_file():
        image = Image.open(SAMPLE).convert("RGB")
        image.thumbnail((384, 384), Image.Resampling.LANCZOS)  # the size that films are made at
        return np.asarray(image)
    if AVATARS.is_file():
        return np.asarray(Image.open(AVATARS).convert("RGB"))[:384, :256].copy()
    pytest.skip("there is no portrait: data/samples/portrait.png is missing, and so is ../shared/assets")


@pytest.fixture(scope="session")
def puppet(portrait: np.ndarray) -> Puppet:
    """The portrait with a mouth to pull."""
    height, width = portrait.shape[:2]
    return Puppet(np.ascontiguousarray(portrait[: height // 2 * 2, : width // 2 * 2]))


@pytest.fixture(scope="session")
def spoken(puppet: Puppet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """Five seconds that should pass: film, its sound, its true openness."""
    audio, openness = babble(5, seed=1)
    path = puppet.film(tmp_path_factory.mktemp("films") / "spoken.mp4", openness, audio)
    return path, audio, openness
