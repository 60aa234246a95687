"""The z-buffer against a pixel-by-pixel test of every triangle."""

import numpy as np
import pytest
import torch

from liveavatar.training.corpus.render import raster
from liveavatar.training.corpus.render.raster import EMPTY, depth_of, rasterise, triangle_of


def brute_force(points: np.ndarray, triangles: np.ndarray, frame: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """Nearest triangle of every pixel, -1 where there is none."""
    best = np.full(size, np.inf)
    seen = np.full(size, -1)
    for t, (corners, b) in enumerate(zip(triangles, frame, strict=True)):
        p, q, r = points[corners]
        area = (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])
        for y in range(size[1]):
            for x in range(size[2]):
                dx, dy = x + 0.5 - p[0], y + 0.5 - p[1]
                w1 = (dx * (r[1] - p[1]) - dy * (r[0] - p[0])) / area
                w2 = ((q[0] - p[0]) * dy - (q[1] - p[1]) * dx) / area
                depth = p[2] + w1 * (q[2] - p[2]) + w2 * (r[2] - p[2])
                if min(w1, w2, 1 - w1 - w2) >= 0 and depth < best[b, y, x]:
                    best[b, y, x], seen[b, y, x] = depth, t
    return seen


def random_scene(seed: int, count: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    points = np.concatenate([rng.uniform(-5, 25, (3 * count, 2)), rng.uniform(60, 120, (3 * count, 1))], 1)
    return points.astype(np.float32), np.arange(3 * count).reshape(count, 3), rng.integers(0, 2, count)


@pytest.mark.parametrize("seed", range(4))
def test_equals_brute_force(seed: int) -> None:
    points, triangles, frame = random_scene(seed)
    size = (2, 20, 24)
    keys = rasterise(torch.as_tensor(points), torch.as_tensor(triangles), torch.as_tensor(frame), size)
    got = torch.where(keys < EMPTY, triangle_of(keys), -1).reshape(size).numpy()
    # A pixel centre on an edge may fall to either side.
    assert (got != brute_force(points, triangles, frame, size)).mean() < 0.005


def test_nearer_wins_and_depth_comes_back() -> None:
    points = torch.tensor([[0, 0, 90.0], [20, 0, 90], [0, 20, 90], [0, 0, 80], [20, 0, 80], [0, 20, 80]])
    keys = rasterise(points, torch.tensor([[0, 1, 2], [3, 4, 5]]), torch.tensor([0, 0]), (1, 8, 8))
    assert triangle_of(keys[0]) == 1
    assert depth_of(keys, 999.0)[0] == pytest.approx(80, abs=1e-3)
    assert depth_of(keys, 999.0)[-1] == pytest.approx(80, abs=1e-3)


def test_one_sided_and_alpha() -> None:
    points = torch.tensor([[0, 0, 90.0], [20, 0, 90], [0, 20, 90]])
    triangle, frame = torch.tensor([[0, 1, 2]]), torch.tensor([0])
    hidden = rasterise(points, triangle, frame, (1, 8, 8), one_sided=torch.tensor([True]))
    turned = rasterise(points, triangle.flip(1), frame, (1, 8, 8), one_sided=torch.tensor([True]))
    assert (hidden == EMPTY).all()
    assert (turned < EMPTY).any()
    half = rasterise(points, triangle, frame, (1, 8, 8), {3: lambda t, w1, w2: w1 < 0.2}, torch.tensor([3]))
    assert 0 < (half < EMPTY).sum() < (turned < EMPTY).sum()
    other = rasterise(points, triangle, frame, (1, 8, 8), {3: lambda t, w1, w2: w1 < 0.2}, torch.tensor([2]))
    assert torch.equal(other < EMPTY, turned < EMPTY)


def test_nothing_on_screen() -> None:
    points = torch.tensor([[-9.0, -9, 90], [-5, -9, 90], [-9, -5, 90]])
    assert (rasterise(points, torch.tensor([[0, 1, 2]]), torch.tensor([0]), (1, 4, 4)) == EMPTY).all()


def test_any_chunk_size_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    points, triangles, frame = (torch.as_tensor(a) for a in random_scene(9, 60))
    whole = rasterise(points, triangles, frame, (2, 20, 24))
    monkeypatch.setattr(raster, "CPU_SAMPLES", 500)
    assert torch.equal(whole, rasterise(points, triangles, frame, (2, 20, 24)))
