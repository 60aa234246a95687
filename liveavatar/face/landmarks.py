"""Face landmarks: 478 points per frame, tracked from frame to frame.

YuNet finds a face once; after that each frame's landmarks give the next frame's region, and the detector runs again
only when the face is lost (*presence* below one half). Distances are given in *eye distances* (between the outer
corners of the eyes), so that they do not depend on the size of the picture.

Models: YuNet (opencv_zoo, MIT) through OpenCV; MediaPipe face mesh (Apache-2.0) through LiteRT. Both run offline.
A tracker is not thread-safe: one per thread.
"""

import io
import os
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np

from liveavatar.face.detect import open_detector
from liveavatar.face.models import landmark_bundle, require

NUM_POINTS = 478
MESH_SIDE = 256  # pixels, input of the mesh network
DETECT_SIDE = 640  # pixels; a larger picture is shrunk for the detector
DETECT_SCORE = 0.5
DETECT_CANDIDATES = 50  # boxes kept before overlapping ones are suppressed
PRESENCE = 0.5  # below this the mesh found no face
SETTLE = 2  # readings after which a new face's landmarks are close to rest
WANDER_READINGS = 6
UNSTEADY = 0.01  # eye distances a reading
RIGHT_EYE_OUTER, LEFT_EYE_OUTER = 33, 263
INNER_LIPS = ((13, 14), (82, 87), (312, 317))  # upper and lower inner-lip points facing one another
MOUTH_CORNERS = (61, 291)
# Upper and lower lid points facing one another, right eye then left.
LIDS = ((159, 145), (158, 153), (160, 144), (386, 374), (385, 380), (387, 373))
ARCFACE_POINTS = (468, 473, 4, 61, 291)  # iris centres, nose tip, mouth corners
# Points that move with the skull and not with speech: forehead, nose bridge, temples, outer eye corners.
RIGID = (10, 67, 109, 151, 297, 338, 9, 8, 168, 6, 197, 33, 133, 362, 263, 127, 356, 21, 251, 54, 284)
RIGHT_EYE = (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7)
LEFT_EYE = (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249)
STDERR = 2  # descriptor
NOTE = b"INFO: "
_STDERR_MOVED = threading.Lock()  # by one thread at a time


@dataclass(frozen=True, slots=True)
class Face:
    """One face in one frame."""

    points: np.ndarray  # float32 [478, 2], pixels (x, y)
    presence: float  # 0 to 1: how sure the mesh is that a face is there
    depths: np.ndarray | None = None  # float32 [478], pixels away from the camera, as the mesh guesses them

    @property
    def eye_distance(self) -> float:
        """Pixels between the outer corners of the eyes."""
        return float(np.hypot(*(self.points[LEFT_EYE_OUTER] - self.points[RIGHT_EYE_OUTER])))

    @property
    def openness(self) -> float:
        """Mouth openness: mean of three inner-lip gaps over the eye distance; shut mouths read 0.01 to 0.06."""
        gaps = [np.hypot(*(self.points[a] - self.points[b])) for a, b in INNER_LIPS]
        return float(np.mean(gaps)) / self.eye_distance

    @property
    def mouth_width(self) -> float:
        """Distance of the mouth's corners over the eye distance; rest about 0.55, OO 0.40, EE 0.69."""
        a, b = MOUTH_CORNERS
        return float(np.hypot(*(self.points[a] - self.points[b]))) / self.eye_distance

    @property
    def lid_gap(self) -> float:
        """Mean gap between the lids of both eyes over the eye distance; open eyes read about 0.1."""
        gaps = [np.hypot(*(self.points[a] - self.points[b])) for a, b in LIDS]
        return float(np.mean(gaps)) / self.eye_distance

    @property
    def roll(self) -> float:
        """Rotation of the line through the eyes, radians, positive clockwise on the screen."""
        x, y = self.points[LEFT_EYE_OUTER] - self.points[RIGHT_EYE_OUTER]
        return float(np.arctan2(y, x))


@dataclass(frozen=True, slots=True)
class _Region:
    """Rotated square that is the input of the mesh network."""

    centre: np.ndarray  # pixels (x, y)
    side: float  # pixels
    angle: float  # radians


class FaceTracker:
    """Tracker of one face of a video: the most prominent one, or one chosen by its size."""

    def __init__(self, threads: int = 2, face: int = 0) -> None:
        """Load the models.

        Args:
            threads: of the mesh network.
            face: which face, the largest first; the last where there are fewer. 0 is the most prominent one.

        Raises:
            FaceModelUnavailable: when a package or model file is missing.
        """
        require("cv2", "ai_edge_litert")
        from ai_edge_litert.interpreter import Interpreter

        with zipfile.ZipFile(io.BytesIO(landmark_bundle())) as bundle:
            self._mesh = Interpreter(model_content=bundle.read("face_landmarks_detector.tflite"), num_threads=threads)
        with _notes_dropped():
            self._mesh.allocate_tensors()
        self._input = self._mesh.get_input_details()[0]["index"]
        outputs = self._mesh.get_output_details()
        self._points_out = next(o["index"] for o in outputs if int(np.prod(o["shape"])) == NUM_POINTS * 3)
        self._presence_out = next(o["index"] for o in outputs if len(o["shape"]) == 4 and np.prod(o["shape"]) == 1)
        self._detector = open_detector(DETECT_SCORE, DETECT_CANDIDATES)
        self._previous: np.ndarray | None = None
        self._lost: np.ndarray | None = None  # where a chosen face was seen last
        self._face = face

    def reset(self) -> None:
        """Drop the tracked face."""
        self._previous = self._lost = None

    def track(self, rgb: np.ndarray) -> Face | None:
        """Track the face into the next frame (uint8 [H, W, 3]); None without a face."""
        if self._previous is not None:
            face = self._mesh_at(rgb, _region_of(self._previous))
            if face is not None:
                self._previous = face.points
                return face
        if self._face and self._previous is not None:
            self._lost = self._previous.mean(0)
        self._previous = None
        return self.find(rgb)

    def find(self, rgb: np.ndarray) -> Face | None:
        """Detect a face in the whole picture; the result is tracked from here on."""
        for five in self._in_order(self._detected(rgb)):
            face = self._mesh_at(rgb, _region_of_detection(five))
            for _ in range(SETTLE):
                face = None if face is None else self._mesh_at(rgb, _region_of(face.points))
            if face is not None:
                self._previous = face.points
                return face
        return None

    def count(self, rgb: np.ndarray) -> int:
        """Count the faces of a picture."""
        return len(self._detected(rgb))

    def _in_order(self, faces: list[np.ndarray]) -> list[np.ndarray]:
        """Order detected faces: as they are likely, or the chosen one first."""
        if not self._face or not faces:
            return faces
        if self._lost is not None:
            lost = self._lost
            return sorted(faces, key=lambda five: float(np.hypot(*(five.mean(0) - lost))))[:1]
        by_size = sorted(faces, key=lambda five: -_region_of_detection(five).side)
        return by_size[min(self._face, len(by_size)) - 1 :][:1]

    def _detected(self, rgb: np.ndarray) -> list[np.ndarray]:
        """Detect faces, the likeliest first: eyes, nose and corners of the mouth of each, float [5, 2]."""
        import cv2

        height, width = rgb.shape[:2]
        scale = min(1.0, DETECT_SIDE / max(height, width))
        small = cv2.resize(rgb, (max(1, round(width * scale)), max(1, round(height * scale))))
        self._detector.setInputSize((small.shape[1], small.shape[0]))
        _, rows = self._detector.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        if rows is None:
            return []
        return [row[4:14].reshape(5, 2) / scale for row in rows[np.argsort(-rows[:, 14])]]

    def near(self, rgb: np.ndarray, face: Face) -> Face | None:
        """Read the face of a picture where another picture has one; what is tracked stays as it is."""
        return self._mesh_at(rgb, _region_of(face.points))

    def wander(self, rgb: np.ndarray, face: Face) -> float:
        """Measure how far the landmarks move when one still picture is read repeatedly, in eye distances a reading.

        On faces the mesh knows they come to rest (under 0.006); on masks, beards and painted creatures they keep
        wandering (over 0.012), and nothing measured on them can be trusted.
        """
        steps, points = [], face.points
        for _ in range(WANDER_READINGS):
            again = self._mesh_at(rgb, _region_of(points))
            if again is None:
                return float("inf")
            steps.append(np.linalg.norm(again.points - points, axis=1).mean() / face.eye_distance)
            points = again.points
        return float(np.mean(steps[WANDER_READINGS // 2 :]))

    def _mesh_at(self, rgb: np.ndarray, region: _Region) -> Face | None:
        import cv2

        cos, sin = np.cos(region.angle), np.sin(region.angle)
        scaled = region.side / MESH_SIDE * np.array([[cos, -sin], [sin, cos]])
        matrix = np.c_[scaled, region.centre - scaled @ [MESH_SIDE / 2, MESH_SIDE / 2]]
        crop = cv2.warpAffine(rgb, matrix, (MESH_SIDE, MESH_SIDE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        pixels = crop[None].astype(np.float32)
        pixels /= 255
        self._mesh.set_tensor(self._input, pixels)
        self._mesh.invoke()
        presence = 1 / (1 + np.exp(-self._mesh.get_tensor(self._presence_out).item()))
        if presence < PRESENCE:
            return None
        mesh = self._mesh.get_tensor(self._points_out).reshape(NUM_POINTS, 3)
        points = mesh[:, :2] @ scaled.T + matrix[:, 2]
        depths = mesh[:, 2] * (region.side / MESH_SIDE)
        face = Face(points.astype(np.float32), float(presence), depths.astype(np.float32))
        return face if face.eye_distance >= 4 else None  # smaller is no face whose mouth can be read


@contextmanager
def _notes_dropped() -> Iterator[None]:
    """Suppress LiteRT's notes on the standard error descriptor; all other lines are written afterwards.

    No option or variable of LiteRT quiets its "INFO: Created TensorFlow Lite XNNPACK delegate for CPU."
    """
    with _STDERR_MOVED, ExitStack() as closing:
        try:
            caught = closing.enter_context(tempfile.TemporaryFile())
            original = os.dup(STDERR)
        except OSError:  # no standard error, or no temporary file
            yield
            return
        try:
            os.dup2(caught.fileno(), STDERR)
            yield
        finally:
            os.dup2(original, STDERR)
            os.close(original)
            caught.seek(0)
            for line in caught:
                if not line.startswith(NOTE):
                    os.write(STDERR, line)


def _region_of_detection(five: np.ndarray) -> _Region:
    """Compute the region from YuNet's eyes, nose and mouth corners."""
    eyes, mouth, across = (five[0] + five[1]) / 2, (five[3] + five[4]) / 2, five[1] - five[0]
    side = 3 * max(np.hypot(*across), 0.95 * np.hypot(*(mouth - eyes)))
    return _Region(0.45 * eyes + 0.55 * mouth, float(side), float(np.arctan2(across[1], across[0])))


def _region_of(points: np.ndarray) -> _Region:
    """Compute the region from landmarks: their bounding square, enlarged by half, rotated with the eyes."""
    low, high = points.min(0), points.max(0)
    x, y = points[LEFT_EYE_OUTER] - points[RIGHT_EYE_OUTER]
    return _Region((low + high) / 2, 1.5 * float((high - low).max()), float(np.arctan2(y, x)))
