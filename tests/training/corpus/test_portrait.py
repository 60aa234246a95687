"""Stills of a person of a seed."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from liveavatar.training.corpus import portrait as command
from liveavatar.training.corpus.head.geometry import HeadAssets
from liveavatar.training.corpus.portrait import portrait


def test_portrait_of_a_seed(assets: HeadAssets) -> None:
    image = portrait(assets, 800_000_048, "studio", "plain", (96, 64))
    assert image.shape == (96, 64, 3)
    assert np.array_equal(image, portrait(assets, 800_000_048, "studio", "plain", (96, 64)))
    # The face, in the middle, is lit; the plain backdrop's corners are alike.
    assert image[40:60, 24:40].mean() > 60
    assert abs(int(image[0, 0].mean()) - int(image[0, -1].mean())) < 12


def test_the_command_writes_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (6, 4, 3), dtype=np.uint8)
    seen: list[tuple[object, ...]] = []
    monkeypatch.setattr(command, "HeadAssets", lambda folder: folder)
    monkeypatch.setattr(command, "portrait", lambda *asked: seen.append(asked) or picture)
    options = ["--assets", "heads", "--seed", "7", "--lighting", "warm", "--height", "6", "--width", "4"]
    monkeypatch.setattr(sys, "argv", ["portrait", *options, "--out", str(tmp_path / "p.png")])
    command.main()
    assert seen == [(Path("heads"), 7, "warm", "shelves", (6, 4))]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "p.png")), picture)
