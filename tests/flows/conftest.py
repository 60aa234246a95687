"""Inputs and a first render, made once for each file of tests of whole runs."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from tests.flows.shop import Shop

RATE = 16_000
SECONDS = 5.76  # twelve blocks, so that snapshots fall inside


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(0)
    swell = np.sin(2 * np.pi * 1.5 * np.arange(int(RATE * SECONDS)) / RATE) ** 2
    wavfile.write(folder / "voice.wav", RATE, (0.2 * swell * rng.standard_normal(len(swell))).astype(np.float32))
    Image.fromarray(rng.integers(0, 255, (24, 16, 3), np.uint8)).resize((256, 384)).save(folder / "face.png")
    return Shop(folder, tiny_model)


@pytest.fixture(scope="module")
def first(shop: Shop) -> subprocess.CompletedProcess[str]:
    """The first render: online, from an empty store. A random model makes noise, so its quality fails."""
    done = shop.run("render", *shop.job(out="out/a"), "--enable-online-decode")
    assert done.returncode in (0, 1), done.stderr
    return done
