"""Face embedding: a unit vector of 128 numbers from SFace (Apache-2.0); the cosine of two measures likeness."""

import numpy as np

from liveavatar.face.landmarks import ARCFACE_POINTS, Face
from liveavatar.face.models import identity_path, require

CROP = 112  # pixels, input of the network
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)  # eyes, nose and mouth corners in an ArcFace crop, pixels


class IdentityNet:
    """SFace through OpenCV; not thread-safe."""

    def __init__(self) -> None:
        """Load the network.

        Raises:
            FaceModelUnavailable: when a package or model file is missing.
        """
        require("cv2")
        import cv2

        self._net = cv2.dnn.readNet(str(identity_path()))

    def embed(self, rgb: np.ndarray, face: Face) -> np.ndarray:
        """Embed a face of a picture (uint8 [H, W, 3]) as a unit vector, float32 [128]."""
        import cv2

        matrix, _ = cv2.estimateAffinePartial2D(face.points[list(ARCFACE_POINTS)], TEMPLATE, method=cv2.LMEDS)
        crop = cv2.warpAffine(rgb, matrix, (CROP, CROP), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        self._net.setInput(cv2.dnn.blobFromImage(crop, 1.0, (CROP, CROP), swapRB=True), "data")
        vector = self._net.forward().reshape(-1).astype(np.float32)
        return vector / max(float(np.linalg.norm(vector)), 1e-12)
