"""Comparison of curves over time: how alike two are, and by how many frames one is late.

Shapes: T frames; NaN where a value is not known.
"""

from collections.abc import Iterable

import numpy as np

MIN_FRAMES = 3  # known in both curves, for a correlation
FLAT = 1e-12  # product of the curves' spreads below which one of them does not vary


def correlation(a_T: np.ndarray, b_T: np.ndarray) -> float:
    """Compute the Pearson correlation over the frames in which both curves are known.

    NaN when fewer than three are, or when one curve does not vary.
    """
    both = np.isfinite(a_T) & np.isfinite(b_T)
    if both.sum() < MIN_FRAMES:
        return float("nan")
    a, b = a_T[both] - a_T[both].mean(), b_T[both] - b_T[both].mean()
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / scale) if scale > FLAT else float("nan")


def correlations(a: Iterable[np.ndarray], b: Iterable[np.ndarray]) -> np.ndarray:
    """Compute the correlation of every pair of curves [n]; 0 where there is none, so that a still face counts."""
    return np.nan_to_num([correlation(x, y) for x, y in zip(a, b, strict=True)])


def best_lag(late: Iterable[np.ndarray], true: Iterable[np.ndarray], reach: int = 5) -> int:
    """Find the frames by which curves must be moved earlier to correlate best with the true ones; positive = late.

    The mean of `correlations` over all pairs decides, and of equal lags the smallest.
    """
    pairs = list(zip(late, true, strict=True))
    scores = {}
    for lag in range(-reach, reach + 1):
        moved = [a[max(0, lag) : len(a) + min(0, lag)] for a, _ in pairs]
        scores[lag] = float(correlations(moved, [b[max(0, -lag) : len(b) - max(0, lag)] for _, b in pairs]).mean())
    return max(scores, key=lambda lag: (round(scores[lag], 9), -abs(lag)))
