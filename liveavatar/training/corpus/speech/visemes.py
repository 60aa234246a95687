"""Mouth curves from viseme events: the shape of each class and the blending of neighbours.

Blending follows Cohen and Massaro's dominance functions: every event pulls the face towards its shape with a
weight a * exp(-(max(0, |t - c| - 0.3 d) / tau)^2), c its centre and d its duration; the face is the weighted
mean. Lip closures dominate, so they survive sampling at 25 frames a second. Shapes were set by hand.
"""

import numpy as np

from liveavatar.training.corpus.speech.phonemes import Viseme

FPS = 25
# Weights of expression shapes; a name ending in * stands for its _L and _R pair.
SHAPES: dict[Viseme, dict[str, float]] = {
    Viseme.SIL: {},
    Viseme.PBM: {"mouthPress*": 0.45, "mouthRollLower": 0.30, "mouthRollUpper": 0.20},
    Viseme.FV: {"jawOpen": 0.07, "mouthRollLower": 0.50, "mouthUpperUp*": 0.25},
    Viseme.TH: {"jawOpen": 0.16, "mouthLowerDown*": 0.30, "mouthUpperUp*": 0.15},
    Viseme.TD: {"jawOpen": 0.14, "mouthStretch*": 0.15, "mouthLowerDown*": 0.30, "mouthUpperUp*": 0.12},
    Viseme.SZ: {"jawOpen": 0.06, "mouthStretch*": 0.25, "mouthLowerDown*": 0.35, "mouthUpperUp*": 0.20},
    Viseme.SH: {"jawOpen": 0.10, "mouthFunnel": 0.50, "mouthPucker": 0.15},
    Viseme.KG: {"jawOpen": 0.22, "mouthLowerDown*": 0.15},
    Viseme.R: {"jawOpen": 0.16, "mouthPucker": 0.35, "mouthFunnel": 0.22},
    Viseme.UW: {"jawOpen": 0.14, "mouthPucker": 0.65, "mouthFunnel": 0.30},
    Viseme.O: {"jawOpen": 0.36, "mouthFunnel": 0.50, "mouthPucker": 0.25},
    Viseme.A: {"jawOpen": 0.62, "mouthLowerDown*": 0.25, "mouthUpperUp*": 0.20},
    Viseme.E: {
        "jawOpen": 0.32, "mouthStretch*": 0.20, "mouthSmile*": 0.15, "mouthLowerDown*": 0.28, "mouthUpperUp*": 0.12,
    },
    Viseme.I: {
        "jawOpen": 0.16, "mouthStretch*": 0.25, "mouthSmile*": 0.35, "mouthLowerDown*": 0.30, "mouthUpperUp*": 0.15,
    },
}  # fmt: skip
# Strength a and reach tau in seconds. tau >= 0.035: shorter closures would fall between two frames.
DOMINANCE: dict[Viseme, tuple[float, float]] = {
    Viseme.SIL: (0.8, 0.07), Viseme.PBM: (8.0, 0.035), Viseme.FV: (5.0, 0.04), Viseme.TH: (2.0, 0.05),
    Viseme.TD: (0.7, 0.05), Viseme.SZ: (1.5, 0.05), Viseme.SH: (3.0, 0.06), Viseme.KG: (0.4, 0.05),
    Viseme.R: (1.5, 0.06), Viseme.UW: (3.0, 0.08), Viseme.O: (2.0, 0.07), Viseme.A: (2.0, 0.06),
    Viseme.E: (1.2, 0.06), Viseme.I: (1.5, 0.06),
}  # fmt: skip
_FLOOR = 0.05  # weight of the rest face
_CORE = 0.30  # share of the duration on either side of the centre with full weight
_REACH = 0.3  # s around an event that is evaluated


def both_sides(weights: dict[str, float]) -> dict[str, float]:
    """Spell out names that end in *."""
    sides = {k: ([k[:-1] + "_L", k[:-1] + "_R"] if k.endswith("*") else [k]) for k in weights}
    return {name: weights[k] for k, names in sides.items() for name in names}


def shape_matrix(names: list[str]) -> np.ndarray:
    """Build the expression weights of every class, float32 [14, K]; `names` are the K expression shapes."""
    matrix = np.zeros((len(Viseme), len(names)), np.float32)
    for viseme, weights in SHAPES.items():
        for name, value in both_sides(weights).items():
            matrix[viseme, names.index(name)] = value
    return matrix


def viseme_curves(events: np.ndarray, num_frames: int, matrix: np.ndarray) -> np.ndarray:
    """Blend events into curves, sampled at frame centres.

    Args:
        events: [n, 3] start and end in seconds on the clip's clock (may lie outside it), class.
        num_frames: frames at 25 per second.
        matrix: `shape_matrix`.

    Returns:
        float32 [num_frames, K].
    """
    time = (np.arange(num_frames) + 0.5) / FPS
    total = np.zeros((num_frames, matrix.shape[1]), np.float32)
    weight_sum = np.full(num_frames, _FLOOR, np.float32)
    for start, end, kind in events:
        first, last = max(0, int((start - _REACH) * FPS)), min(num_frames, int((end + _REACH) * FPS) + 1)
        if last <= first:
            continue
        strength, tau = DOMINANCE[Viseme(int(kind))]
        away = np.maximum(np.abs(time[first:last] - (start + end) / 2) - _CORE * (end - start), 0)
        weight = strength * np.exp(-((away / tau) ** 2))
        total[first:last] += weight[:, None] * matrix[int(kind)]
        weight_sum[first:last] += weight
    return total / weight_sum[:, None]


def loudness_gain(audio: np.ndarray, num_frames: int, sample_rate: int = 16_000) -> np.ndarray:
    """Compute the gain of mouth opening from loudness: 0.88 at -46 dBFS and below, 1.12 at -14 dBFS and above.

    Args:
        audio: the clip's sound; frame f is centred at (f + 0.5) / 25 s.

    Returns:
        float32 [num_frames], smooth over about a quarter of a second.
    """
    step = sample_rate // FPS
    padded = np.pad(audio, (0, max(0, num_frames * step - len(audio))))[: num_frames * step]
    power = (padded.reshape(num_frames, step).astype(np.float64) ** 2).mean(1)
    x = np.arange(-9, 10) / FPS
    kernel = np.exp(-(x**2) / (2 * 0.12**2))
    power = np.convolve(np.pad(power, 9, mode="edge"), kernel / kernel.sum(), "valid")
    level = np.clip((10 * np.log10(power + 1e-9) + 46) / 32, 0, 1)
    return (0.88 + 0.24 * level * level * (3 - 2 * level)).astype(np.float32)
