"""Identity measures: cosine between the portrait's face embedding and the video's, and its drift.

Embeddings of one second are averaged before they are compared, which is steadier than single frames. OpenCV's
published SFace threshold for "the same person" on photos is a cosine of 0.363; rendered heads are more alike: different
heads reach 0.65, the same head stays above 0.84 (see `limits`). Embeddings are biometric data: only their cosines are
stored or reported.

Shapes: N sampled frames, S seconds.
"""

import numpy as np

from liveavatar.quality.absence import Absence, MeasureUnavailable
from liveavatar.quality.windows import Local

MIN_DRIFT_SECONDS = 10  # a slope over less is noise; `identity_loss` compares start and end there


def similarity_per_second(embeddings_N128: np.ndarray, seconds_N: np.ndarray, reference_128: np.ndarray) -> np.ndarray:
    """Compute the cosine of each second's mean embedding with the portrait's.

    Args:
        embeddings_N128: unit vectors of sampled frames.
        seconds_N: their times.
        reference_128: the portrait's unit vector.

    Returns:
        float64 [S], one value per second that has a sample, in order.

    Raises:
        MeasureUnavailable: when there is no sample.
    """
    if not len(seconds_N):
        raise MeasureUnavailable("no face was found in the video", Absence.FAULT)
    cosines = []
    whole = np.floor(seconds_N).astype(int)
    for second in np.unique(whole):
        mean = embeddings_N128[whole == second].mean(0)
        cosines.append(float(mean @ reference_128 / max(float(np.linalg.norm(mean)), 1e-12)))
    return np.array(cosines)


def identity_min(embeddings_N128: np.ndarray, seconds_N: np.ndarray, reference_128: np.ndarray) -> Local:
    """Compute `identity_min`: the lowest cosine of any second to the portrait; 1 = the same picture. Source: SFace.

    Arguments and errors as of `similarity_per_second`.
    """
    similarity_S = similarity_per_second(embeddings_N128, seconds_N, reference_128)
    return Local(float(similarity_S.min()), float(_whole_seconds(seconds_N)[similarity_S.argmin()]))


def identity_drift(embeddings_N128: np.ndarray, seconds_N: np.ndarray, reference_128: np.ndarray) -> float:
    """Compute `identity_drift`: least-squares slope of the cosine per minute; negative = drifting away.

    Arguments as of `similarity_per_second`.

    Raises:
        MeasureUnavailable: when the seconds that can be compared span less than 10 s.
    """
    similarity_S = similarity_per_second(embeddings_N128, seconds_N, reference_128)
    seconds_S = _whole_seconds(seconds_N)
    if seconds_S[-1] - seconds_S[0] + 1 < MIN_DRIFT_SECONDS:
        raise MeasureUnavailable(
            f"the face can be compared over less than {MIN_DRIFT_SECONDS} s; a drift cannot be told from noise",
            Absence.NOT_APPLICABLE,
        )
    return float(np.polyfit(seconds_S / 60, similarity_S, 1)[0])


def _whole_seconds(seconds_N: np.ndarray) -> np.ndarray:
    return np.unique(np.floor(seconds_N).astype(int))
