"""Fixtures of the quality tests."""

from pathlib import Path

import numpy as np
import pytest

from tests.puppet import Puppet, babble, portrait, puppet
from tests.split import short, stored

__all__ = ["portrait", "puppet", "short", "spoken", "stored"]


@pytest.fixture(scope="session")
def spoken(puppet: Puppet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """Five seconds that should pass: video, its sound, its true openness."""
    audio, openness = babble(5, seed=1)
    path = puppet.video(tmp_path_factory.mktemp("films") / "spoken.mp4", openness, audio)
    return path, audio, openness
