"""Z-buffer rasteriser for many small triangles, in plain torch: the visible triangle of each pixel of each frame.

Triangles are cut into rows of pixel centres, each row is bounded by the three edges, and the samples of the rows are
tested and drawn. Depth and triangle number share one 64-bit key, so one `amin` scatter resolves visibility. All
frames of a batch are drawn at once.

Shapes: V vertices, T triangles, B frames, R rows, P pixels or samples.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from liveavatar.training.corpus.render.fuse import fused

EMPTY = 2**62  # key of a pixel that no triangle covers
# Pixels of the triangles' bounding boxes in flight; bounds memory. A quarter of them are samples.
CPU_SAMPLES, GPU_SAMPLES = 12_000_000, 160_000_000
_NEAR, _RANGE = 20.0, 200.0  # cm of depth that the key resolves in 2^30 steps
_EDGE = 1e-5  # weight by which a sample may lie outside: neighbours leave no gap

# (triangle [P], barycentric weights of the second and third corner [P] each) -> which samples exist, bool [P]
AlphaTest = Callable[[Tensor, Tensor, Tensor], Tensor]


def triangle_of(key: Tensor) -> Tensor:
    """Extract the triangle number of a key."""
    return key & 0xFFFFFFFF


def depth_of(key: Tensor, empty: float) -> Tensor:
    """Extract the depth in cm of a key; `empty` where nothing was drawn."""
    depth = (key >> 32).float() / 2**30 * _RANGE + _NEAR
    return torch.where(key < EMPTY, depth, torch.full((), empty, device=key.device))


def rasterise(
    points: Tensor,
    triangles: Tensor,
    frame: Tensor,
    size: tuple[int, int, int],
    alpha: Mapping[int, AlphaTest] | None = None,
    kind: Tensor | None = None,
    one_sided: Tensor | None = None,
) -> Tensor:
    """Draw triangles into a z-buffer.

    Args:
        points: [V, 3] x and y in pixels, depth in cm.
        triangles: [T, 3] indices into `points`.
        frame: [T] frame of each triangle.
        size: frames, height, width.
        alpha: drops samples of the triangles of a kind, e.g. between hair strands.
        kind: [T] kinds; needed with `alpha`.
        one_sided: [T] triangles that are not drawn when they face away.

    Returns:
        keys int64 [B * H * W], see `triangle_of` and `depth_of`.
    """
    num_frames, height, width = size
    device = points.device
    keys = torch.full((num_frames * height * width,), EMPTY, dtype=torch.long, device=device)
    if not len(triangles):
        return keys
    if one_sided is None:
        one_sided = torch.zeros(len(triangles), dtype=torch.bool, device=device)
    sides = torch.tensor([height, width], device=device)
    table, rows, box = _setup(points, triangles, one_sided, sides)
    first_row = frame * height
    tests: dict[int, AlphaTest] = dict(alpha or {})
    if kind is None or not tests:
        _draw(keys, _Triangles(table, first_row, rows, box), width, None)
        return keys
    opaque = torch.ones_like(one_sided)
    for number, test in tests.items():
        of_kind = kind == number
        opaque &= ~of_kind
        _draw(keys, _Triangles(table, first_row, rows * of_kind, box * of_kind), width, test)
    _draw(keys, _Triangles(table, first_row, rows * opaque, box * opaque), width, None)
    return keys


@dataclass(frozen=True, slots=True)
class _Triangles:
    """Triangles prepared for drawing; rows and box are 0 for triangles that are left out."""

    table: Tensor  # [T, 12] of `_setup`
    first_row: Tensor  # [T] number of the frame's first row of pixels
    rows: Tensor  # [T] rows of pixel centres
    box: Tensor  # [T] pixels of the bounding box


def _draw(keys: Tensor, triangles: _Triangles, width: int, alpha: AlphaTest | None) -> None:
    """Draw triangles into `keys`, in chunks; triangles without rows are left out."""
    table, first_row, rows, box = triangles.table, triangles.first_row, triangles.rows, triangles.box
    chunk = CPU_SAMPLES if keys.device.type == "cpu" else GPU_SAMPLES
    total = box.cumsum(0)
    last = int(total[-1])
    if not last:
        return
    ends = torch.searchsorted(total, torch.arange(chunk, last + chunk, chunk, device=keys.device))
    cuts = [0, *ends.clamp(max=len(box)).tolist()]
    cuts[-1] = len(box)
    width_ = torch.tensor(width, device=keys.device)
    for i, j in pairwise(cuts):
        if j <= i:
            continue
        count = rows[i:j]
        of_row = torch.repeat_interleave(count)
        if not len(of_row):
            continue
        row, samples = _rows(table[i:j], first_row[i:j], of_row, count.cumsum(0) - count, width_)
        of_sample = torch.repeat_interleave(samples)
        if not len(of_sample):
            continue
        key, pixel, triangle, w1, w2 = _samples(
            table[i:j], of_row, row, of_sample, samples.cumsum(0) - samples, torch.tensor(i, device=keys.device)
        )
        if alpha is not None:
            key = torch.where(alpha(triangle, w1, w2), key, EMPTY)
        keys.scatter_reduce_(0, pixel, key, "amin")


@fused
def _setup(points: Tensor, triangles: Tensor, one_sided: Tensor, sides: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute every triangle's table [T, 12], number of rows [T] and pixels of its box [T]; 0 for invisible ones.

    The table: gradients of the two weights, the first corner, the two depth steps, first and last column, first row.
    """
    a, b, c = (points[triangles[:, k]] for k in range(3))
    e1, e2 = b - a, c - a
    area = e1[:, 0] * e2[:, 1] - e1[:, 1] * e2[:, 0]
    low, high = torch.minimum(torch.minimum(a, b), c), torch.maximum(torch.maximum(a, b), c)
    x0, x1 = (low[:, 0] - 0.5).ceil().clamp(min=0), torch.minimum((high[:, 0] - 0.5).floor(), sides[1] - 1.0)
    y0, y1 = (low[:, 1] - 0.5).ceil().clamp(min=0), torch.minimum((high[:, 1] - 0.5).floor(), sides[0] - 1.0)
    visible = (x1 >= x0) & (y1 >= y0) & (area.abs() > 1e-9) & ~(one_sided & (area > 0))
    inverse = 1 / area
    table = torch.stack(
        [
            e2[:, 1] * inverse, -e2[:, 0] * inverse, -e1[:, 1] * inverse, e1[:, 0] * inverse,
            a[:, 0], a[:, 1], a[:, 2], e1[:, 2], e2[:, 2], x0, x1, y0,
        ],
        1,
    )  # fmt: skip
    rows = torch.where(visible, y1 - y0 + 1, 0.0).int()
    return table, rows, rows * torch.where(visible, x1 - x0 + 1, 0.0).int()


@dataclass
class _Rows:
    """Rows of pixel centres of triangles."""

    weight1: Tensor  # [R] part of the second corner's weight that is constant in the row
    weight2: Tensor  # [R] the same for the third corner
    column: Tensor  # [R] first column
    pixel: Tensor  # [R] pixel number of column 0


@fused
def _rows(table: Tensor, first_row: Tensor, triangle: Tensor, start: Tensor, width: Tensor) -> tuple[_Rows, Tensor]:
    """Bound each row of pixel centres by the triangle's edges.

    Args:
        table: of `_setup`.
        first_row: [T] number of the frame's first row of pixels.
        triangle: [R] triangle of each row.
        start: [T] number of a triangle's first row in R.
        width: of the picture, pixels.

    Returns:
        rows, and the number of samples of each [R]. Rows are a little too long rather than too short.
    """
    y = table[triangle, 11] + (torch.arange(len(triangle), device=table.device) - start[triangle])
    py = y + 0.5 - table[triangle, 5]
    gx1, gx2, ax = table[triangle, 0], table[triangle, 2], table[triangle, 4]
    c1, c2 = py * table[triangle, 1], py * table[triangle, 3]
    x0, x1 = table[triangle, 9], table[triangle, 10]
    reach = torch.maximum((x0 + 0.5 - ax).abs(), (x1 + 0.5 - ax).abs())
    # Covers the rounding errors in the weights of slivers, whose gradients are steep.
    slack = _EDGE + 5e-7 * ((gx1.abs() + gx2.abs()) * reach + c1.abs() + c2.abs())
    low, high = x0, x1
    for slope, at in ((gx1, c1 + slack), (gx2, c2 + slack), (-(gx1 + gx2), 1 - c1 - c2 + slack)):
        bound = -at / slope + (ax - 0.5)
        low = torch.where(slope > 0, torch.maximum(low, bound), low)
        high = torch.where(slope < 0, torch.minimum(high, bound), high)
        high = torch.where((slope == 0) & (at < 0), x0 - 2, high)
    low, high = torch.maximum((low - 0.01).ceil(), x0), torch.minimum((high + 0.01).floor(), x1)
    samples = (high - low + 1).clamp(min=0).int()
    pixel = (first_row[triangle] + y.long()) * width
    return _Rows(c1, c2, torch.minimum(low, x1).int(), pixel.int()), samples


@fused
def _samples(
    table: Tensor,
    of_row: Tensor,
    rows: _Rows,
    row: Tensor,
    start: Tensor,
    first: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Test samples and compute their keys.

    Args:
        table: of `_setup`.
        of_row: [R] triangle of a row.
        rows: of `_rows`.
        row: [P] row of each sample.
        start: [R] number of a row's first sample in P.
        first: number of the triangle in row 0 of the table.

    Returns:
        keys (EMPTY outside of the triangle), pixels, triangles and the two weights, [P] each.
    """
    x = rows.column[row] + (torch.arange(len(row), device=table.device) - start[row])
    k = of_row[row]
    px = x + 0.5 - table[k, 4]
    w1, w2 = px * table[k, 0] + rows.weight1[row], px * table[k, 2] + rows.weight2[row]
    inside = (w1 >= -_EDGE) & (w2 >= -_EDGE) & (w1 + w2 <= 1 + _EDGE)
    depth = table[k, 6] + w1 * table[k, 7] + w2 * table[k, 8]
    quantised = (((depth - _NEAR) / _RANGE).clamp(0, 1) * 2**30).long()
    triangle = k + first
    return torch.where(inside, quantised << 32 | triangle, EMPTY), rows.pixel[row] + x, triangle, w1, w2
