"""Face curves of a video, read by the product's landmark tracker: one reader for made and true videos.

Nothing here was trained on the generator or on its corpus. Shapes: T frames; NaN where no face was seen.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from liveavatar.face.head_pose import face_pose
from liveavatar.face.landmarks import INNER_LIPS, MOUTH_CORNERS, Face, FaceTracker

BLINK_QUANTILE = 2  # per cent of the frames: a blink of 0.2 s every 5 s fills 4


@dataclass(frozen=True, slots=True)
class FaceCurves:
    """Curves of the face in one video."""

    openness: np.ndarray  # [T] inner-lip gap over the eye distance
    width: np.ndarray  # [T] distance of the mouth's corners over the eye distance
    lids: np.ndarray  # [T] mean gap between the lids over the eye distance
    lift: np.ndarray  # [T] how far the mouth's corners are above its middle, over the eye distance
    head: np.ndarray  # [T, 3] yaw, pitch, roll, radians


def read_faces(frames: Iterable[np.ndarray], tracker: FaceTracker) -> FaceCurves:
    """Read the face in every frame (uint8 [H, W, 3]) of a video."""
    tracker.reset()
    rows = []
    for rgb in frames:
        face = tracker.track(rgb)
        rows.append([np.nan] * 7 if face is None else _row(face, (rgb.shape[0], rgb.shape[1])))
    table = np.array(rows, float).reshape(-1, 7)
    return FaceCurves(table[:, 0], table[:, 1], table[:, 2], table[:, 3], table[:, 4:])


def _row(face: Face, size: tuple[int, int]) -> list[float]:
    return [face.openness, face.mouth_width, face.lid_gap, corner_lift(face), *face_pose(face, size)]


def corner_lift(face: Face) -> float:
    """Return the height of the mouth's corners over the inner lips' middle, in eye distances; a smile lifts them."""
    middle = face.points[list(INNER_LIPS[0])].mean(0)
    corners = face.points[list(MOUTH_CORNERS)].mean(0)
    x, y = corners - middle
    return float(x * np.sin(face.roll) - y * np.cos(face.roll)) / face.eye_distance


def blink_depth(lids_T: np.ndarray) -> float:
    """Return the depth of blinks: 1 - 2nd percentile of the lid gap over its median; 0 = never, 1 = entirely."""
    if not np.isfinite(lids_T).any():
        return float("nan")
    low, middle = np.nanpercentile(lids_T, [BLINK_QUANTILE, 50])
    return float(1 - low / max(middle, 1e-6))


def head_spread(head_T3: np.ndarray) -> float:
    """Return the standard deviation of yaw, pitch and roll over time, averaged, in degrees."""
    seen = head_T3[np.isfinite(head_T3).all(1)]
    return float(np.degrees(seen.std(0)).mean()) if len(seen) > 1 else float("nan")
