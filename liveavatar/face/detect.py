"""Face detection in one picture with YuNet (opencv_zoo, MIT): where the eyes of the main face are."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from liveavatar.face.models import FaceModelUnavailable, detector_path, require

log = logging.getLogger(__name__)

DETECTOR_SIDE = 640  # pixels; a picture whose longer side exceeds it is shrunk
PORTRAIT_SCORE = 0.65  # lowest score of a portrait's face
SCORE_SLACK = 0.15  # among faces this close to the best score the largest is taken
BOX_TO_EYES = 0.30  # eye distance over box height of a frontal face; a turned head's eyes look closer
NMS_OVERLAP = 0.3  # OpenCV's default
TOP_FACES = 5000  # OpenCV's default: candidates before suppression


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceBox:
    """Position and size of a detected face in a picture, pixels."""

    eye_x: float  # midpoint of the eyes
    eye_y: float
    eye_distance: float  # as seen from the front
    score: float


def open_detector(min_score: float, candidates: int = TOP_FACES) -> Any:
    """Load YuNet as a `cv2.FaceDetectorYN`; set its input size before use.

    Args:
        min_score: faces below it are not returned.
        candidates: boxes kept before overlapping ones are suppressed.

    Raises:
        FaceModelUnavailable: when OpenCV or the model file is missing, or the file is damaged.
    """
    require("cv2")
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # its warnings concern no user
    return cv2.FaceDetectorYN.create(str(detector_path()), "", (320, 320), min_score, NMS_OVERLAP, candidates)


def find_face(rgb: np.ndarray) -> FaceBox | None:
    """Find the main face of a picture (uint8 [H, W, 3]); None without a face or without a usable detector."""
    try:
        detector = open_detector(PORTRAIT_SCORE)
    except FaceModelUnavailable as e:
        log.info("the face detector cannot be used (%s); the picture is cropped around its centre", e)
        return None
    import cv2

    height, width = rgb.shape[:2]
    scale = min(1.0, DETECTOR_SIDE / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    bgr = cv2.resize(rgb[..., ::-1], size, interpolation=cv2.INTER_AREA)
    detector.setInputSize((bgr.shape[1], bgr.shape[0]))
    _, rows = detector.detect(np.ascontiguousarray(bgr))
    faces = [] if rows is None else [_face_box(row, scale) for row in rows]
    best = max((f.score for f in faces), default=0.0)
    return max((f for f in faces if f.score >= best - SCORE_SLACK), key=lambda f: f.eye_distance, default=None)


def _face_box(row: np.ndarray, scale: float) -> FaceBox:
    """Convert a detector row: box x, y, w, h; right eye, left eye, nose, mouth corners as x, y; score."""
    box_height = float(row[3])
    eyes = row[4:8].reshape(2, 2).astype(float)
    distance = max(float(np.hypot(*(eyes[1] - eyes[0]))), BOX_TO_EYES * box_height)
    x, y = eyes.mean(0).tolist()
    return FaceBox(eye_x=x / scale, eye_y=y / scale, eye_distance=distance / scale, score=float(row[14]))
