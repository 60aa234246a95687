"""Readings of the whole picture: a lattice of blocks, and bars at its borders.

Shapes: H, W of the picture.
"""

import numpy as np

PERIODS = range(3, 17)  # pixels
FAINT = 1.0  # grey levels: steps below it are no edges
FLOOR = 0.02  # share of edges that a flat picture may have anywhere
FLAT = 4.0  # standard deviation of a row, grey levels, under which it may belong to a bar
BAR_EDGE = 12.0  # grey levels between a bar and the picture


def lattice(luma: np.ndarray) -> float:
    """Measure the lattice of a mosaic: how much more often an edge lies on the lines of a grid than elsewhere.

    An edge is a step between neighbouring pixels that is larger than the two beside it. For every period of 3 to 16
    pixels and every phase the share of edges is taken; the measure is the largest share less the mean, over the
    mean (plus 0.02), the smaller of rows and columns. 0 = no lattice; one that is exact reaches period - 1.

    Args:
        luma: uint8 [H, W].
    """
    return min(_lattice(luma), _lattice(luma.T))


def _lattice(luma: np.ndarray) -> float:
    step = np.abs(np.diff(luma.astype(np.float32), axis=1))
    middle = step[:, 1:-1]
    edges = ((middle > step[:, :-2]) & (middle > step[:, 2:]) & (middle > FAINT)).mean(0)
    mean = float(edges.mean())
    best = 0.0
    for period in PERIODS:
        whole = len(edges) // period * period
        if whole < 4 * period:
            break
        phases = np.median(edges[:whole].reshape(-1, period), 0)
        best = max(best, (float(phases.max()) - mean) / (mean + FLOOR))
    return best


def bars(luma: np.ndarray) -> np.ndarray:
    """Measure the bars at the top, bottom, left and right of a picture: float64 [4], shares of its height or width.

    A bar is made of rows without any texture, all of one grey, and ends at an edge.

    Args:
        luma: uint8 [H, W].
    """
    values = luma.astype(np.float32)
    sides = (values, values[::-1], values.T, values.T[::-1])
    return np.array([_bar(side) for side in sides])


def _bar(rows_HW: np.ndarray) -> float:
    flat, mean = rows_HW.std(1) < FLAT, rows_HW.mean(1)
    alike = flat & (np.abs(mean - mean[0]) < FLAT)
    depth = len(alike) if alike.all() else int(alike.argmin())
    if depth < 2 or depth > len(alike) // 2:
        return 0.0
    inside = rows_HW[min(depth + 2, len(alike) - 1)]
    return depth / len(alike) if np.median(np.abs(inside - mean[0])) > BAR_EDGE else 0.0
