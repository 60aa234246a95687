"""Eye track (`liveavatar.pose.blinks`) of a video, read off landmarks.

Values are relative to the video: lid closure to its 80th-percentile opening, gaze to its median direction, which is
assumed to be the camera. On the 8 true videos of the evaluation split, eyes 74 to 85 pixels wide, lids follow the
truth with a correlation of 0.98, and the gaze's yaw with 0.95 (0.93 with constants fitted on the other seven). Its
pitch reached 0.57 at best, because a usual glance up moves the iris by a third of a pixel: it is set to 0, the
camera's height.

Shapes: F frames at 25 fps.
"""

import numpy as np

from liveavatar.face.landmarks import Face

EYE_CORNERS, IRISES = (33, 133, 362, 263), (468, 473)
OPEN_PERCENTILE = 80  # of the lid gaps of a video: its open eyes
MIN_OPEN = 0.04  # eye distances; below it lids are invisible, or shut throughout
MIN_PIXELS = 24  # between the outer corners
OPEN_SHARE, SHUT_SHARE = 0.12, 0.72  # of the open gap that is gone: open eyes tremble to here; here they are shut
GLANCE_FRAMES = 9  # running median; glances are held for longer, and blinks are shorter
# Radians a unit: of the irises' offset from the middle of the corners (eye distances), and of the head's yaw.
PER_ASIDE, PER_YAW = 7.5, 0.49
MAX_GAZE = 0.35  # radians; further, the iris is hidden


def eye_reading(face: Face) -> np.ndarray:
    """Read lid gap, the irises' offset to the right of the eye corners' middle (eye distances), eye distance, px."""
    x, y = face.points[list(IRISES)].mean(0) - face.points[list(EYE_CORNERS)].mean(0)
    aside = (x * np.cos(face.roll) + y * np.sin(face.roll)) / face.eye_distance
    return np.array([face.lid_gap, aside, face.eye_distance])


def seen_eyes(readings_F3: np.ndarray, yaw_F: np.ndarray) -> np.ndarray | None:
    """Compute the eye track float32 [F, 3] of a video; None when its eyes are too small or shut to be read.

    Args:
        readings_F3: of every frame, see `eye_reading`.
        yaw_F: of the head, radians.
    """
    gap, aside, pixels = readings_F3.T
    gap = gap * np.cos(yaw_F)  # a turned head narrows the eye distance
    wide = np.percentile(gap, OPEN_PERCENTILE)
    if wide < MIN_OPEN or np.median(pixels) < MIN_PIXELS:
        return None
    lids = np.clip((1 - gap / wide - OPEN_SHARE) / (SHUT_SHARE - OPEN_SHARE), 0, 1)
    looking = np.flatnonzero(lids == 0)
    look = (PER_ASIDE * aside + PER_YAW * yaw_F)[looking]
    look = np.interp(np.arange(len(gap)), looking, look - np.median(look))
    edge = GLANCE_FRAMES // 2
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(look, edge, mode="edge"), GLANCE_FRAMES)
    look = np.clip(np.median(windows, -1), -MAX_GAZE, MAX_GAZE)
    return np.stack((lids, look, np.zeros_like(look)), 1).astype(np.float32)
