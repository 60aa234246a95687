"""Lips and lids: the parts of a face that the moved picture cannot show, and where a frame of the model has them.

Their places come from face landmarks: those of the model's still, moved as the face moves, and those of the frame. A
frame is read by itself, where the still has the face, so that nothing depends on the frames before.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from liveavatar.face.landmarks import Face

OUTER_LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
# In eye distances
LIP_MARGIN, LID_MARGIN = 0.06, 0.08  # beyond the landmarks
FEATHER = 0.04  # sigma of the soft edge
SHUT, OPEN = 0.35, 0.75  # lid gap over the still's: at the first the model's lids show, from the second the picture's


class SpeakingParts:
    """Masks of lips and lids in the frames of one portrait."""

    def __init__(self, still: np.ndarray, mouth: np.ndarray) -> None:
        """Find the face of the still.

        Args:
            still: uint8 [h, w, 3], the model's own rendering of the portrait at rest.
            mouth: float32 [h, w], taken for the lips where the face cannot be read, whose lids then stay open.
        """
        from liveavatar.face.landmarks import LEFT_EYE, RIGHT_EYE, UNSTEADY, FaceTracker
        from liveavatar.face.models import FaceModelUnavailable

        self.shape = still.shape[:2]
        self.face: Face | None = None
        self.lips, self.lids = mouth, np.zeros_like(mouth)
        try:
            self.tracker = FaceTracker(threads=1)
        except FaceModelUnavailable:
            return
        face = self.tracker.find(still)
        if face is not None and self.tracker.wander(still, face) <= UNSTEADY:
            self.face = face
            self.lips = self._mask(face, [OUTER_LIPS], LIP_MARGIN)
            self.lids = self._mask(face, [RIGHT_EYE, LEFT_EYE], LID_MARGIN)

    def _mask(self, face: "Face", parts: Sequence[Sequence[int]], margin: float) -> np.ndarray:
        """Draw parts of a face, each within a margin, float32 [h, w] from 0 to 1."""
        import cv2

        mask = np.zeros(self.shape, np.uint8)
        for part in parts:
            outline = np.rint(cv2.convexHull(face.points[list(part)])).astype(np.int32)
            cv2.fillConvexPoly(mask, outline, 255)
            cv2.polylines(mask, [outline], True, 255, max(1, round(2 * margin * face.eye_distance)))
        soft: np.ndarray = cv2.GaussianBlur(mask, (0, 0), FEATHER * face.eye_distance) / np.float32(255)
        return soft

    def look(self, frame: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draw the masks of a frame: lips, and lids as far as they are shut; float32 [h, w] from 0 to 1.

        Args:
            frame: uint8 [h, w, 3].
            places: float32 [h, w, 2], x and y of where each of its points lies in the still.
        """
        import cv2

        lips, lids = (
            cv2.remap(mask, places[..., 0], places[..., 1], cv2.INTER_LINEAR) for mask in (self.lips, self.lids)
        )
        face = None if self.face is None else self.tracker.near(frame, self.face)
        if self.face is None or face is None:
            return lips, np.zeros_like(lids)
        gap = face.lid_gap / max(self.face.lid_gap, 1e-6)
        shut = np.float32(np.clip((OPEN - gap) / (OPEN - SHUT), 0, 1))
        return np.maximum(lips, self._mask(face, [OUTER_LIPS], LIP_MARGIN)), lids * shut
