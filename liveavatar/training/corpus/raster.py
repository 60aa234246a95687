"""A z-buffer for many small triangles, in plain torch: which triangle does each pixel of each frame see?

Every triangle tests the pixel centres of its bounding box; depth and triangle number share one 64-bit key, so
one `amin` scatter resolves visibility. All frames of a batch are drawn at once.

Shapes: V vertices, T triangles, B frames, P pixels or samples.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

EMPTY = 2**62  # key of a pixel that no triangle covers
CPU_SAMPLES, GPU_SAMPLES = 6_000_000, 48_000_000  # samples in flight; bounds memory
_NEAR, _RANGE = 20.0, 200.0  # cm of depth that the key resolves in 2^30 steps

# (triangle [P], barycentric weights of the second and third corner [P] each) -> positions of samples to keep
AlphaTest = Callable[[Tensor, Tensor, Tensor], Tensor]


def triangle_of(key: Tensor) -> Tensor:
    """Triangle number in a key."""
    return key & 0xFFFFFFFF


def depth_of(key: Tensor, empty: float) -> Tensor:
    """Depth in cm of a key; `empty` where nothing was drawn."""
    depth = (key >> 32).float() / 2**30 * _RANGE + _NEAR
    return torch.where(key < EMPTY, depth, torch.full((), empty, device=key.device))


def rasterise(
    points: Tensor,
    triangles: Tensor,
    frame: Tensor,
    size: tuple[int, int, int],
    alpha: AlphaTest | None = None,
    one_sided: Tensor | None = None,
) -> Tensor:
    """Draw triangles into a z-buffer.

    Args:
        points: [V, 3] x and y in pixels, depth in cm.
        triangles: [T, 3] indices into `points`.
        frame: [T] frame of each triangle.
        size: frames, height, width.
        alpha: drops samples of a triangle, e.g. between hair strands.
        one_sided: [T] triangles that are not drawn when they face away.

    Returns:
        keys int64 [B * H * W], see `triangle_of` and `depth_of`.
    """
    num_frames, height, width = size
    device = points.device
    chunk = CPU_SAMPLES if device.type == "cpu" else GPU_SAMPLES
    a, b, c = (points[triangles[:, k]] for k in range(3))
    e1, e2 = b - a, c - a
    area = e1[:, 0] * e2[:, 1] - e1[:, 1] * e2[:, 0]
    low, high = torch.minimum(torch.minimum(a, b), c), torch.maximum(torch.maximum(a, b), c)
    x0, x1 = (low[:, 0] - 0.5).ceil().clamp(min=0), (high[:, 0] - 0.5).floor().clamp(max=width - 1)
    y0, y1 = (low[:, 1] - 0.5).ceil().clamp(min=0), (high[:, 1] - 0.5).floor().clamp(max=height - 1)
    visible = (x1 >= x0) & (y1 >= y0) & (area.abs() > 1e-9)
    if one_sided is not None:
        visible &= ~(one_sided & (area > 0))
    t = visible.nonzero()[:, 0]
    keys = torch.full((num_frames * height * width,), EMPTY, dtype=torch.long, device=device)
    if not len(t):
        return keys
    inverse = 1 / area[t]
    box_width = (x1 - x0 + 1)[t].long()
    count = ((x1 - x0 + 1) * (y1 - y0 + 1))[t].long()
    # One row per triangle: gradients of the two weights, the first corner, and the two depth steps.
    table = torch.stack(
        [
            e2[t, 1] * inverse, -e2[t, 0] * inverse, -e1[t, 1] * inverse, e1[t, 0] * inverse,
            a[t, 0], a[t, 1], a[t, 2], e1[t, 2], e2[t, 2],
        ],
        1,
    )  # fmt: skip
    base = (frame[t] * height + y0[t].long()) * width + x0[t].long()
    corner = torch.stack([x0[t], y0[t]], 1)
    total = count.cumsum(0)
    ends = torch.searchsorted(total, torch.arange(chunk, int(total[-1]) + chunk, chunk, device=device))
    cuts = [0, *ends.clamp(max=len(t)).tolist()]
    cuts[-1] = len(t)
    for i, j in pairwise(cuts):
        if j <= i:
            continue
        k = torch.repeat_interleave(torch.arange(i, j, device=device), count[i:j])
        local = torch.arange(len(k), device=device) - (total[k] - count[k] - (total[i] - count[i]))
        dy = local // box_width[k]
        dx = local - dy * box_width[k]
        row = table[k]
        px, py = corner[k, 0] + dx + 0.5 - row[:, 4], corner[k, 1] + dy + 0.5 - row[:, 5]
        w1, w2 = px * row[:, 0] + py * row[:, 1], px * row[:, 2] + py * row[:, 3]
        s = ((w1 >= -1e-5) & (w2 >= -1e-5) & (w1 + w2 <= 1 + 1e-5)).nonzero()[:, 0]
        w1, w2, k, row = w1[s], w2[s], k[s], row[s]
        depth = row[:, 6] + w1 * row[:, 7] + w2 * row[:, 8]
        triangle, pixel = t[k], base[k] + dy[s] * width + dx[s]
        if alpha is not None:
            s = alpha(triangle, w1, w2)
            depth, triangle, pixel = depth[s], triangle[s], pixel[s]
        quantised = (((depth - _NEAR) / _RANGE).clamp(0, 1) * 2**30).long()
        keys.scatter_reduce_(0, pixel, quantised << 32 | triangle, "amin")
    return keys
