"""Loudness by ITU-R BS.1770-4 / EBU R 128, streamed, for mono 16 kHz.

*LUFS* is the mean power of the K-weighted signal over 0.4 s blocks that pass two gates: -70 LUFS absolute, and
10 LU below the mean of the blocks that passed the first.
"""

import math

import numpy as np
from scipy.signal import lfilter, lfilter_zi

from liveavatar.timing import SAMPLE_RATE

TARGET_LUFS = -23.0  # EBU R 128
PEAK_DBFS = -1.0  # no sample may come out louder
_STEP = SAMPLE_RATE // 10  # 0.1 s; a block is four steps
_BLOCK_STEPS = 4
_OFFSET = -0.691  # dB, makes a 997 Hz sine at 0 dBFS read -3.01 LUFS
_ABSOLUTE_GATE = -70.0  # LUFS
_RELATIVE_GATE = -10.0  # LU


def _k_weighting() -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Compute the two biquads (b, a) of BS.1770 at 16 kHz, from its 48 kHz table's analogue parameters."""
    gain_db, q, k = 3.999843853973347, 0.7071752369554196, math.tan(math.pi * 1681.974450955533 / SAMPLE_RATE)
    high, mid = 10 ** (gain_db / 20), 10 ** (gain_db / 20 * 0.4996667741545416)
    norm = 1 + k / q + k * k
    shelf_b = np.array([high + mid * k / q + k * k, 2 * (k * k - high), high - mid * k / q + k * k]) / norm
    shelf_a = np.array([norm, 2 * (k * k - 1), 1 - k / q + k * k]) / norm
    q, k = 0.5003270373238773, math.tan(math.pi * 38.13547087602444 / SAMPLE_RATE)
    norm = 1 + k / q + k * k
    return (shelf_b, shelf_a), (np.array([1.0, -2.0, 1.0]), np.array([norm, 2 * (k * k - 1), 1 - k / q + k * k]) / norm)


def integrated_loudness(audio: np.ndarray) -> float:
    """Measure the gated loudness of a track in LUFS; -inf when nothing passes the gates.

    Args:
        audio: float [samples], mono 16 kHz; padded with silence to 0.4 s when shorter.
    """
    stages = [(b, a, lfilter_zi(b, a) * 0.0) for b, a in _k_weighting()]
    powers = []
    for start in range(0, len(audio), 100 * _STEP):
        part = audio[start : start + 100 * _STEP].astype(np.float64)
        for i, (b, a, state) in enumerate(stages):
            part, state = lfilter(b, a, part, zi=state)
            stages[i] = (b, a, state)
        whole = np.pad(part, (0, -len(part) % _STEP))
        powers.append(np.square(whole).reshape(-1, _STEP).mean(1))
    steps = np.concatenate(powers)
    steps = np.pad(steps, (0, max(0, _BLOCK_STEPS - len(steps))))
    blocks = np.convolve(steps, np.full(_BLOCK_STEPS, 1 / _BLOCK_STEPS), "valid")
    loud = blocks[blocks >= _power(_ABSOLUTE_GATE)]
    if not len(loud):
        return -math.inf
    loud = loud[loud >= loud.mean() * 10 ** (_RELATIVE_GATE / 10)]
    return _OFFSET + 10 * math.log10(loud.mean())


def _power(lufs: float) -> float:
    return 10 ** ((lufs - _OFFSET) / 10)


def normalise(audio: np.ndarray, lufs: float = TARGET_LUFS, peak_dbfs: float = PEAK_DBFS) -> np.ndarray:
    """Scale a track to a loudness by one gain, lowered where a peak would otherwise pass `peak_dbfs`.

    Args:
        audio: float32 [samples], mono 16 kHz.

    Returns:
        A new float32 array of the same length; unchanged values when the track is too quiet to measure.
    """
    loudness = integrated_loudness(audio)
    peak = float(np.abs(audio).max(initial=0.0))
    if not math.isfinite(loudness) or peak == 0.0:
        return audio.astype(np.float32)
    gain = min(10 ** ((lufs - loudness) / 20), 10 ** (peak_dbfs / 20) / peak)
    return audio * np.float32(gain)


def raised(audio: np.ndarray) -> np.ndarray:
    """Scale a track too quiet for the loudness gate: first to `PEAK_DBFS`, then as `normalise` does.

    Args:
        audio: float32 [samples], mono 16 kHz.

    Returns:
        A new float32 array of the same length; noise comes out as loud as speech would.
    """
    peak = float(np.abs(audio).max(initial=0.0))
    return normalise(audio * np.float32(10 ** (PEAK_DBFS / 20) / peak)) if peak else audio.astype(np.float32)
