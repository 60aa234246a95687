"""Share of a sound that is clipped."""

import numpy as np

LEVEL = 0.9  # of the peak
PEAK = 99.99  # percentile that counts as the peak: a coder overshoots in single samples
VOICE = 0.1  # of the peak; pauses do not dilute the share
HEARD = 0.03  # share from which clipping is heard; speech has 0.002 to 0.01, clipped by 12 dB 0.1


def peak_of(audio: np.ndarray) -> float:
    """Return the level that counts as the peak of samples; 0 when there are none."""
    return float(np.percentile(np.abs(audio), PEAK)) if len(audio) else 0.0


def clipped_share(audio: np.ndarray) -> float:
    """Compute the share of samples within a tenth of the peak, of those louder than a tenth of it.

    Speech reaches its peak in few samples; sound that was clipped stays there.

    Args:
        audio: float [samples] at any level.
    """
    level, peak = np.abs(audio), peak_of(audio)
    return float((level > LEVEL * peak).sum() / max(1, (level > VOICE * peak).sum()))
