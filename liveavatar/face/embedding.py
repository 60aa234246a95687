"""Is it still the same person: face embeddings against the portrait.

An *embedding* is a unit vector of 128 numbers from SFace (Apache-2.0); the cosine of two of them tells how alike
two faces are. Embeddings of one second are averaged before they are compared, which is steadier than single frames.
OpenCV's published threshold for "the same person" on photos is a cosine of 0.363; rendered heads are more alike: other
heads reach 0.65, the same head keeps 0.84 and more (see `limits`). Embeddings are biometric data: they are
neither stored nor reported, only their cosines are.
"""

import numpy as np

from liveavatar.face.landmarks import ARCFACE_POINTS, Face
from liveavatar.face.models import Absence, MeasureUnavailable, identity_path, require

CROP = 112  # pixels, input of the network
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)  # where ArcFace-like networks expect eyes, nose and mouth corners, pixels of the crop
MIN_DRIFT_SECONDS = 4  # a slope over less is noise


class IdentityNet:
    """SFace through OpenCV; not thread-safe."""

    def __init__(self) -> None:
        """Load the network.

        Raises:
            MeasureUnavailable: when a package or model file is missing.
        """
        require("cv2")
        import cv2

        self._net = cv2.dnn.readNet(str(identity_path()))

    def embed(self, rgb: np.ndarray, face: Face) -> np.ndarray:
        """Unit embedding, float32 [128], of a face in a picture (uint8 [H, W, 3])."""
        import cv2

        matrix, _ = cv2.estimateAffinePartial2D(face.points[list(ARCFACE_POINTS)], TEMPLATE, method=cv2.LMEDS)
        crop = cv2.warpAffine(rgb, matrix, (CROP, CROP), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        self._net.setInput(cv2.dnn.blobFromImage(crop, 1.0, (CROP, CROP), swapRB=True), "data")
        vector = self._net.forward().reshape(-1).astype(np.float32)
        return vector / max(float(np.linalg.norm(vector)), 1e-12)


def similarity_per_second(embeddings_N128: np.ndarray, seconds_N: np.ndarray, reference_128: np.ndarray) -> np.ndarray:
    """Cosine of each second's mean embedding with the portrait's.

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
        raise MeasureUnavailable("no face was found in the film", Absence.FAULT)
    result = []
    whole = np.floor(seconds_N).astype(int)
    for second in np.unique(whole):
        mean = embeddings_N128[whole == second].mean(0)
        result.append(float(mean @ reference_128 / max(float(np.linalg.norm(mean)), 1e-12)))
    return np.array(result)


def identity_min(similarity_S: np.ndarray) -> float:
    """`identity_min`: cosine to the portrait in the worst second. 1 = the same picture. Source: SFace, design.md."""
    return float(similarity_S.min())


def identity_drift(similarity_S: np.ndarray) -> float:
    """`identity_drift`: slope of the cosine to the portrait, per minute, by least squares; negative = drifting away.

    Raises:
        MeasureUnavailable: for films under 4 s.
    """
    if len(similarity_S) < MIN_DRIFT_SECONDS:
        raise MeasureUnavailable(
            f"the film is shorter than {MIN_DRIFT_SECONDS} s; a drift cannot be told from noise", Absence.NOT_APPLICABLE
        )
    return float(np.polyfit(np.arange(len(similarity_S)) / 60, similarity_S, 1)[0])
