"""Camera, rotations, and sums whose order does not matter."""

import math
from pathlib import Path

import pytest
import torch

from liveavatar.errors import InputError
from liveavatar.training.corpus.head.geometry import (
    CAMERA_DISTANCE,
    CENTRE_Y,
    Camera,
    HeadAssets,
    rotation,
    scatter_sum,
    smoothstep,
)


def test_camera_looks_at_the_centre() -> None:
    camera = Camera(height=384, width=256, zoom=1.2, shift=(0.1, -0.05))
    got = camera.project(torch.tensor([0.0, CENTRE_Y, 0.0]), scale=2)
    assert got.tolist() == pytest.approx([256 + 0.1 * 768, 384 + 0.05 * 768, CAMERA_DISTANCE])


def test_camera_scale_is_the_same_picture() -> None:
    camera = Camera(height=256, width=384, zoom=1.1, shift=(0.03, 0.01))
    points = torch.randn(20, 3) * 5
    once, twice = camera.project(points), camera.project(points, 2)
    torch.testing.assert_close(once[:, :2] * 2, twice[:, :2])
    # 9.1 pixels a centimetre at 384 pixels of height, zoom 1
    span = Camera(height=384, width=256).project(torch.tensor([[0.0, 0, 0], [1, 0, 0]]))
    assert float(span[1, 0] - span[0, 0]) == pytest.approx(9.1, abs=1e-3)


@pytest.mark.parametrize(
    ("angles", "start", "end"),
    [
        pytest.param((math.pi / 2, 0, 0), (0, 0, 1), (1, 0, 0), id="yaw turns the face to its left"),
        pytest.param((0, math.pi / 2, 0), (0, 0, 1), (0, -1, 0), id="pitch looks down"),
        pytest.param((0, 0, math.pi / 2), (1, 0, 0), (0, 1, 0), id="roll"),
    ],
)
def test_rotation(angles: tuple[float, ...], start: tuple[float, ...], end: tuple[float, ...]) -> None:
    matrix = rotation(*(torch.tensor([a]) for a in angles))[0]
    torch.testing.assert_close(matrix @ torch.tensor(start).float(), torch.tensor(end).float(), atol=1e-6, rtol=0)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(3), atol=1e-6, rtol=0)


def test_scatter_sum_is_exact_in_any_order() -> None:
    values, index = torch.randn(4000, 3), torch.randint(0, 7, (4000, 3))
    total = scatter_sum(values, index, 7)
    order = torch.randperm(4000)
    assert torch.equal(total, scatter_sum(values[order], index[order], 7))
    naive = torch.zeros(7, 3)
    for k in range(3):
        naive.index_add_(0, index[:, k], values)
    torch.testing.assert_close(total, naive, atol=2e-3, rtol=0)


def test_smoothstep() -> None:
    x = torch.tensor([0.0, 1, 2, 3])
    assert smoothstep(1, 3, x).tolist() == [0, 0, 0.5, 1]
    assert smoothstep(3, 1, x).tolist() == [1, 1, 0.5, 0]


def test_missing_assets_name_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"corpus\.head\.assets"):
        HeadAssets(tmp_path)
