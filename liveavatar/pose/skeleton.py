"""Key points of a head and their drawing, as models guided by a skeleton video see them.

The drawing follows DWPose (Yang et al., 2023) and OpenPose before it: a black picture; 18 points of the body (COCO's
with the neck), joined by limbs in the colours of the rainbow at 60 % of their brightness; 68 white points of the face
(iBUG's order). Points that are not known are left out. Line widths are DWPose's on a picture whose shorter side has 512
pixels, and grow with the picture.

What this product sees of a person is the face. Nose, eyes and ears are those of the face mesh. Neck and shoulders are
*estimated* from where the face is on average, and stand still. Lips are drawn at rest, for they follow the sound.
Arms, hands and legs are left out.

Shapes: F frames, K = 86 key points (18 of the body, then 68 of the face), x to the right and y down in pixels.
"""

import numpy as np

from liveavatar.face.landmarks import LEFT_EYE_OUTER, RIGHT_EYE_OUTER

BODY, FACE = slice(0, 18), slice(18, 86)
NUM_KEYPOINTS = 86
NOSE, NECK, RIGHT_SHOULDER, LEFT_SHOULDER = 0, 1, 2, 5
HEAD_OF_MESH = {NOSE: 4, 14: 468, 15: 473, 16: 234, 17: 454}  # eyes: irises; ears: where the mesh ends before them
# Limbs in the order of their colours, as pairs of body points.
LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10)),
    *((1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
# RGB of each body point, and of the limb with the same number.
COLOURS = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0)),
    *((0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255)),
    *((0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
)
FULL_SIDE = 512  # pixels of the shorter side at which the widths below hold
LIMB_WIDTH, BODY_RADIUS, FACE_RADIUS = 4, 4, 3  # pixels
LIMB_BRIGHTNESS = 0.6
# Face mesh points nearest to iBUG's 68: jaw, brows, nose, eyes, outer lips, inner lips.
FACE_OF_MESH = (
    *(162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389),
    *(71, 63, 105, 66, 107, 336, 296, 334, 293, 301),
    *(168, 197, 5, 4, 75, 97, 2, 326, 305),
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87),
)
ANCHORS = (33, 133, 362, 263, 168, 197, 2, 129, 358)  # of the mesh: eye corners and nose, which speech does not move
CHIN = 152  # of the mesh
SHOULDERS_BELOW = 1.75  # eyes to the shoulders' joints, over eyes to chin: 20 over 11.5 cm
SHOULDERS_ASIDE = 2.0  # half the breadth between the joints, over the distance of the outer eye corners (8.9 cm)


def head_keypoints(points_F478: np.ndarray) -> np.ndarray:
    """Choose the key points float32 [F, 86, 2] of face meshes [F, 478, 2]; neck and shoulders stand still below."""
    made = np.full((len(points_F478), NUM_KEYPOINTS, 2), np.nan, np.float32)
    made[:, list(HEAD_OF_MESH)] = points_F478[:, list(HEAD_OF_MESH.values())]
    made[:, FACE] = points_F478[:, list(FACE_OF_MESH)]
    middle, distance = eyes_of(points_F478)
    chin = float(np.median(np.linalg.norm(points_F478[:, CHIN] - middle, axis=1)))
    neck = middle + np.array([0.0, SHOULDERS_BELOW * chin])
    made[:, NECK] = neck
    made[:, RIGHT_SHOULDER], made[:, LEFT_SHOULDER] = (
        neck + np.array([side * SHOULDERS_ASIDE * distance, 0.0]) for side in (-1, 1)
    )
    return made


def eyes_of(points_F478: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the median middle [2] of the eyes of face meshes [F, 478, 2], and the median distance of their corners."""
    right, left = points_F478[:, RIGHT_EYE_OUTER], points_F478[:, LEFT_EYE_OUTER]
    distances = np.linalg.norm(left - right, axis=1)
    return np.median((left + right) / 2, axis=0), float(np.median(distances))


def with_resting_lips(points_F478: np.ndarray) -> np.ndarray:
    """Replace the lips of face meshes [F, 478, 2] by their median shape, which moves along with eyes and nose."""
    held, lips = points_F478[:, list(ANCHORS)].astype(np.float64), points_F478[:, list(FACE_OF_MESH[48:])]
    mean = np.c_[held.mean(0), np.ones(len(ANCHORS))]
    moves = np.linalg.pinv(mean) @ held  # [F, 3, 2]: turn, stretch and shift of the mean face to each frame's
    at_rest = np.median((lips - moves[:, 2:]) @ np.linalg.inv(moves[:, :2]), axis=0)
    out = points_F478.copy()
    out[:, list(FACE_OF_MESH[48:])] = np.c_[at_rest, np.ones(len(at_rest))] @ moves
    return out


def draw(keypoints_K2: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Draw the key points [86, 2] of one frame: uint8 RGB [H, W, 3].

    Args:
        keypoints_K2: pixels; NaN where unknown.
        size: (width, height).
    """
    import cv2

    width, height = size
    canvas = np.zeros((height, width, 3), np.uint8)
    scale = min(size) / FULL_SIDE
    known = np.isfinite(keypoints_K2).all(1)
    body = keypoints_K2[BODY]
    for colour, (a, b) in zip(COLOURS, LIMBS, strict=False):
        if known[a] and known[b]:
            middle, (x, y) = (body[a] + body[b]) / 2, body[b] - body[a]
            axes = (max(1, round(float(np.hypot(x, y)) / 2)), max(1, round(LIMB_WIDTH * scale)))
            angle = int(np.degrees(np.arctan2(y, x)))
            outline = np.array(cv2.ellipse2Poly(_pixel(middle), axes, angle, 0, 360, 1))
            cv2.fillConvexPoly(canvas, outline, colour)
    canvas = (canvas * LIMB_BRIGHTNESS).astype(np.uint8)
    for point, colour, seen in zip(body, COLOURS, known[BODY], strict=True):
        if seen:
            cv2.circle(canvas, _pixel(point), max(1, round(BODY_RADIUS * scale)), colour, thickness=-1)
    for point, seen in zip(keypoints_K2[FACE], known[FACE], strict=True):
        if seen:
            cv2.circle(canvas, _pixel(point), max(1, round(FACE_RADIUS * scale)), (255, 255, 255), thickness=-1)
    return canvas


def _pixel(point: np.ndarray) -> tuple[int, int]:
    return int(point[0]), int(point[1])
