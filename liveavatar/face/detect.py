"""Face detection in one picture with YuNet (opencv_zoo, MIT): where the eyes of the main face are, and which way up.

A picture is shrunk for the detector. Where that shows no face, parts of it are searched at finer scales, so that a
face of 60 pixels in a photo of 12 megapixels is found. YuNet takes upside-down faces for upright ones, with a lower
score; the way up is therefore the rotation with the best score.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from liveavatar.face.models import FaceModelUnavailable, detector_path, require

log = logging.getLogger(__name__)

DETECTOR_SIDE = 640  # pixels; a picture whose longer side exceeds it is shrunk
PORTRAIT_SCORE = 0.65  # lowest score of a portrait's face
FINE_SCALES = (2_000, 5_000)  # longer side, pixels, at which a picture without a face is searched in parts
FINE_SCORE = 0.8  # lowest score there: many parts mean many chances to be wrong
TILE, TILE_OVERLAP = 1_280, 320  # pixels of a part; a face larger than the overlap was found at a coarser scale
SURE_SCORE = 0.9  # a face with this score stands upright; an upright face that is turned scores below
TURN_GAIN = 0.03  # by how much a rotation must score better
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
    return next(iter(find_faces(rgb)), None)


def find_faces(rgb: np.ndarray) -> list[FaceBox]:
    """Find the faces of a picture (uint8 [H, W, 3]): the clear ones first, the largest before the smaller."""
    detector = _portrait_detector()
    if detector is None:
        return []
    longer = max(rgb.shape[:2])
    faces = _faces(detector, rgb, min(1.0, DETECTOR_SIDE / longer))
    for side in FINE_SCALES:
        if faces or longer <= DETECTOR_SIDE:
            break
        faces = _faces_of_tiles(detector, rgb, min(1.0, side / longer))
        if side >= longer:
            break
    best = max((f.score for f in faces), default=0.0)
    return sorted(faces, key=lambda f: (f.score < best - SCORE_SLACK, -f.eye_distance))


def upright_turns(rgb: np.ndarray) -> int:
    """Count the quarter turns (counterclockwise, as of `np.rot90`) that set the face of a picture upright.

    0 when it stands upright, when the picture shows no face, or without a usable detector.
    """
    import cv2

    detector = _portrait_detector()
    if detector is None:
        return 0
    scale = min(1.0, DETECTOR_SIDE / max(rgb.shape[:2]))
    scores = [_best_score(detector, rgb, scale)]
    if scores[0] >= SURE_SCORE:
        return 0
    small = cv2.resize(rgb, _scaled(rgb, scale), interpolation=cv2.INTER_AREA)
    scores += [_best_score(detector, np.ascontiguousarray(np.rot90(small, turns)), 1.0) for turns in (1, 2, 3)]
    best = int(np.argmax(scores))
    return best if scores[best] >= max(SURE_SCORE, scores[0] + TURN_GAIN) else 0


def _portrait_detector() -> Any | None:
    try:
        return open_detector(PORTRAIT_SCORE)
    except FaceModelUnavailable as e:
        log.info("the face detector cannot be used (%s); the picture is cropped around its centre", e)
        return None


def _scaled(rgb: np.ndarray, scale: float) -> tuple[int, int]:
    height, width = rgb.shape[:2]
    return max(1, round(width * scale)), max(1, round(height * scale))


def _best_score(detector: Any, rgb: np.ndarray, scale: float) -> float:
    return max((face.score for face in _faces(detector, rgb, scale)), default=0.0)


def _faces(detector: Any, rgb: np.ndarray, scale: float) -> list[FaceBox]:
    import cv2

    bgr = cv2.resize(rgb[..., ::-1], _scaled(rgb, scale), interpolation=cv2.INTER_AREA)
    return [_face_box(row, scale) for row in _rows(detector, bgr)]


def _faces_of_tiles(detector: Any, rgb: np.ndarray, scale: float) -> list[FaceBox]:
    """Search overlapping parts of a picture that is scaled by `scale`; a face is counted where it lies most inside."""
    import cv2

    small = rgb if scale == 1.0 else cv2.resize(rgb, _scaled(rgb, scale), interpolation=cv2.INTER_AREA)
    height, width = small.shape[:2]
    faces = []
    for top, low, high in _tiles(height):
        for left, first, last in _tiles(width):
            for row in _rows(detector, small[top : top + TILE, left : left + TILE, ::-1]):
                face = _face_box(row, scale, (left, top))
                inside = first <= face.eye_x * scale < last and low <= face.eye_y * scale < high
                if inside and face.score >= FINE_SCORE:
                    faces.append(face)
    return faces


def _tiles(length: int) -> list[tuple[int, int, int]]:
    """Cut a side into tiles: (start, and the first and last pixel that is nearer to its middle than to another's)."""
    starts = range(0, max(1, length - TILE_OVERLAP), TILE - TILE_OVERLAP)
    edge = TILE_OVERLAP // 2
    return [
        (start, start + edge if start else 0, length if start == starts[-1] else start + TILE - edge)
        for start in starts
    ]


def _rows(detector: Any, bgr: np.ndarray) -> list[np.ndarray]:
    detector.setInputSize((bgr.shape[1], bgr.shape[0]))
    _, rows = detector.detect(np.ascontiguousarray(bgr))
    return [] if rows is None else list(rows)


def _face_box(row: np.ndarray, scale: float, origin: tuple[int, int] = (0, 0)) -> FaceBox:
    """Convert a detector row: box x, y, w, h; right eye, left eye, nose, mouth corners as x, y; score.

    Args:
        row: of a part of the picture that begins at `origin` (x, y) of the scaled picture.
        scale: of the scaled picture.
    """
    box_height = float(row[3])
    eyes = row[4:8].reshape(2, 2).astype(float)
    distance = max(float(np.hypot(*(eyes[1] - eyes[0]))), BOX_TO_EYES * box_height)
    x, y = (eyes.mean(0) + origin).tolist()
    return FaceBox(eye_x=x / scale, eye_y=y / scale, eye_distance=distance / scale, score=float(row[14]))
