"""Mosaics and bars, drawn into noise and into gradients."""

import cv2
import numpy as np
import pytest

from liveavatar.quality import picture


@pytest.fixture
def scene() -> np.ndarray:
    """A picture with texture, uint8 [192, 256]."""
    rng = np.random.default_rng(0)
    return np.clip(cv2.GaussianBlur(rng.normal(120, 200, (192, 256)), (0, 0), 2), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("side", [3, 6, 16])
def test_a_mosaic_has_its_edges_on_a_lattice(side: int, scene: np.ndarray) -> None:
    small = cv2.resize(scene, (256 // side, 192 // side), interpolation=cv2.INTER_AREA)
    squares = cv2.resize(small, (256 // side * side, 192 // side * side), interpolation=cv2.INTER_NEAREST)
    assert picture.lattice(squares) > 1
    assert picture.lattice(scene) < 0.5


def test_flat_pictures_have_no_lattice() -> None:
    assert picture.lattice(np.full((64, 64), 90, np.uint8)) == 0


def test_bars_are_measured_side_by_side(scene: np.ndarray) -> None:
    assert picture.bars(scene).tolist() == [0, 0, 0, 0]
    scene[:24] = 0
    scene[:, -32:] = 0
    assert picture.bars(scene)[[0, 3]] == pytest.approx([24 / 192, 32 / 256], abs=0.02)


def test_a_flat_wall_that_ends_softly_is_no_bar() -> None:
    wall = np.full((100, 80), 60.0)
    wall[40:] += np.linspace(0, 60, 60)[:, None]
    assert picture.bars(wall.astype(np.uint8))[0] == 0
