"""Head pose (yaw, pitch, roll) of a face, solved from landmarks that neither speech nor expression moves.

Directions are those of `liveavatar.pose.track`.
"""

import logging
import math

import numpy as np

from liveavatar.face.landmarks import Face, FaceTracker
from liveavatar.face.models import FaceModelUnavailable

log = logging.getLogger(__name__)

# Distance of the camera and width of the eyes: they imply the focal length. Half or twice the distance changes angles
# by a tenth.
CAMERA_CM, EYES_CM = 80.0, 8.89

# Mesh points that move with the skull, cm, x to the picture's right, y up, z to the camera: the shape that best
# explains the landmarks of 128 rendered heads of 16 avatars under known rotations (yaw to 20, pitch and roll to 11
# degrees), made symmetric and as wide at the eyes as MediaPipe's canonical face.
_MIDDLE = {
    9: (4.90, 5.16), 8: (4.03, 5.11), 168: (3.12, 5.08), 6: (2.31, 5.51), 197: (1.65, 5.93), 5: (0.43, 6.72),
    4: (-0.34, 7.06), 1: (-0.96, 6.98), 2: (-1.72, 5.99),
}  # fmt: skip
_PAIRS = {
    (33, 263): (4.45, 2.66, 3.17),  # outer corners of the eyes
    (133, 362): (1.73, 2.47, 3.75),  # inner corners
    (98, 327): (1.58, -1.66, 5.16),  # nostrils
    (129, 358): (2.00, -1.03, 4.87),
    (127, 356): (7.25, 2.20, -1.10),  # temples
    (234, 454): (7.22, 0.71, -1.44),
    (93, 323): (7.12, -0.82, -1.50),
}
SKULL = {
    **{index: (0.0, y, z) for index, (y, z) in _MIDDLE.items()},
    **{pair[0]: (-x, y, z) for pair, (x, y, z) in _PAIRS.items()},
    **{pair[1]: (x, y, z) for pair, (x, y, z) in _PAIRS.items()},
}
GAIN = np.array([1.04, 0.87, 0.99])  # solved over true yaw, pitch, roll on those heads: the landmarks nod too little


def portrait_pose(rgb: np.ndarray) -> np.ndarray | None:
    """Read yaw, pitch, roll (float32 [3], radians) of the head in a portrait (uint8 [H, W, 3]).

    None without a face, or (with a warning) without a usable face model.
    """
    try:
        face = FaceTracker().find(rgb)
    except FaceModelUnavailable as e:
        log.warning("the portrait's head pose cannot be read here (%s)", e)
        return None
    return None if face is None else face_pose(face, rgb.shape[:2]).astype(np.float32)


def rotation(angles_3: np.ndarray) -> np.ndarray:
    """Build the rotation matrix [3, 3] of yaw, pitch, roll (radians): roll first, then pitch, then yaw."""
    yaw, pitch, roll = (float(angle) for angle in angles_3)
    about_y = np.array([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)], [0, math.sin(pitch), math.cos(pitch)]])
    about_z = np.array([[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]])
    turned: np.ndarray = about_y @ about_x @ about_z
    return turned


def face_pose(face: Face, size: tuple[int, int]) -> np.ndarray:
    """Solve yaw, pitch, roll (float64 [3], radians) of a face in a picture of `size` (height, width).

    Perspective-n-point on `SKULL` with the camera's axis through the middle of the picture. On renders of other
    avatars the mean error was 1.1, 2.4 and 0.3 degrees; most of the pitch error is a constant of each person.
    """
    import cv2

    height, width = size
    focal = CAMERA_CM / EYES_CM * face.eye_distance
    camera = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    points = face.points[list(SKULL)].astype(np.float64)
    _, rotation_vector, _ = cv2.solvePnP(np.array(list(SKULL.values())), points, camera, None, flags=cv2.SOLVEPNP_SQPNP)
    rotation = np.diag([1.0, -1.0, -1.0]) @ cv2.Rodrigues(rotation_vector)[0]  # OpenCV looks along z with y down
    yaw = math.atan2(rotation[0, 2], rotation[2, 2])
    pitch = -math.asin(float(np.clip(rotation[1, 2], -1, 1)))
    return np.array([yaw, pitch, math.atan2(rotation[1, 0], rotation[1, 1])]) / GAIN
