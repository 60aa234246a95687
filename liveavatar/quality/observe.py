"""One pass over a video: reads the inputs of all measures, frame by frame, with memory for a few pictures.

The result is a table of numbers and a few small arrays; no picture is stored. Costly readings (identity, aligned
texture) are taken at *samples*, every fifth frame. Decoding and the embedding of faces run beside the rest, a thread
each.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from liveavatar.face.embedding import IdentityNet
from liveavatar.face.landmarks import UNSTEADY, Face, FaceTracker
from liveavatar.face.models import FaceModelUnavailable
from liveavatar.media.ffmpeg import Frame
from liveavatar.quality import motion, picture, skin, texture
from liveavatar.quality.absence import Absence, MeasureUnavailable

T = TypeVar("T")

SAMPLE_EVERY = 5  # frames between readings of identity and texture
WANDER_EVERY = 50  # frames between readings of the landmarks' steadiness
EMBEDDINGS_WAITING = 4  # pictures that may wait for their embedding
NUM_GROUPS = len(motion.ANCHOR_GROUPS)


@dataclass(slots=True)
class Observation:
    """Readings of a video. Lists have one entry a frame; NaN where there was no face."""

    seconds: list[float] = field(default_factory=list)
    presence: list[float] = field(default_factory=list)
    openness: list[float] = field(default_factory=list)
    mouth_width: list[float] = field(default_factory=list)
    speed: list[float] = field(default_factory=list)  # eye distances a second
    roll: list[float] = field(default_factory=list)  # radians
    head_x: list[float] = field(default_factory=list)  # eye distances, of the bridge of the nose
    head_y: list[float] = field(default_factory=list)
    change: list[float] = field(default_factory=list)  # mean absolute difference to the frame before, 0 to 255
    luminance: list[float] = field(default_factory=list)  # mean luma, 0 to 255
    contrast: list[float] = field(default_factory=list)  # standard deviation of luma
    sharpness_ratio: list[float] = field(default_factory=list)
    texture_psnr: list[float] = field(default_factory=list)  # dB; samples only
    identity: list[float] = field(default_factory=list)  # cosine to the portrait; samples only
    red: list[float] = field(default_factory=list)  # mean of the cheeks, 0 to 255
    green: list[float] = field(default_factory=list)
    blue: list[float] = field(default_factory=list)
    spot_step: list[float] = field(default_factory=list)  # grey levels, see `skin`
    spots: list[float] = field(default_factory=list)  # samples only, as the five below
    half_likeness: list[float] = field(default_factory=list)
    tints: list[float] = field(default_factory=list)  # levels of chroma
    stretch: list[float] = field(default_factory=list)  # log of width over height, against the portrait's
    turn: list[float] = field(default_factory=list)  # of the head, less the portrait's
    lattice: list[float] = field(default_factory=list)
    bars: list[np.ndarray] = field(default_factory=list)  # [4], a sample each
    embedding_frames: list[int] = field(default_factory=list)
    anchors: list[np.ndarray] = field(default_factory=list)  # [4, 2], eye distances
    embeddings: list[np.ndarray] = field(default_factory=list)
    embedding_seconds: list[float] = field(default_factory=list)
    wander: list[float] = field(default_factory=list)  # unrest of the landmarks on still pictures, a few samples
    num_faces: int = 0  # in the first picture
    missing: dict[str, MeasureUnavailable] = field(default_factory=dict)  # parts that could not be observed, and why


@dataclass(slots=True)
class Reference:
    """Portrait prepared for comparison; parts are None when they cannot be read."""

    rgb: np.ndarray
    face: Face | None = None
    embedding: np.ndarray | None = None
    upright: skin.Upright | None = None
    colour: skin.SkinColour | None = None
    bars: np.ndarray = field(default_factory=lambda: np.zeros(4))


class Observer:
    """Reader of one video's frames."""

    def __init__(self, portrait: np.ndarray | None, threads: int = 2, face: int = 0) -> None:
        """Load the models; a missing one becomes a reason in the observation, not an error.

        Args:
            portrait: uint8 [H, W, 3], or None when there is none to compare with.
            threads: of the landmark network.
            face: which face, the largest first; 0 is the most prominent one.
        """
        self.seen = Observation()
        self.reference: Reference | None = None if portrait is None else Reference(portrait)
        self._texture: texture.PortraitTexture | None = None
        self._previous_points: np.ndarray | None = None
        self._previous_rgb: np.ndarray | None = None
        self._previous_skin: skin.Upright | None = None
        self._unit: float | None = None  # pixels of the video's first eye distance
        self._embedding: list[tuple[int, Future[np.ndarray]]] = []  # frame, and the embedding that is computed
        self._tracker = self._load("face", lambda: FaceTracker(threads, face))
        self._identity = self._load("identity", IdentityNet)
        self._look_at_portrait()

    def _load(self, part: str, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except FaceModelUnavailable as e:
            self.seen.missing[part] = MeasureUnavailable(str(e))
            return None

    def _look_at_portrait(self) -> None:
        missing, reference = self.seen.missing, self.reference
        if reference is None:
            missing["portrait"] = MeasureUnavailable("no portrait was given", Absence.NOT_APPLICABLE)
            return
        reference.bars = picture.bars(_luma(reference.rgb))
        if self._tracker is None:
            return
        face = self._tracker.find(reference.rgb)
        self._tracker.reset()
        if face is None:
            missing["portrait"] = MeasureUnavailable("no face was found in the portrait")
            return
        wander = self._tracker.wander(reference.rgb, face)
        if wander > UNSTEADY:
            missing["portrait"] = MeasureUnavailable(
                f"the portrait's face cannot be followed: its landmarks wander by {wander:.3f} eye distances "
                f"on the still picture (limit {UNSTEADY})"
            )
            return
        reference.face = face
        reference.upright = skin.read_upright(reference.rgb, face)
        reference.colour = skin.read_skin_colour(reference.rgb, face)
        if self._identity is not None:
            reference.embedding = self._identity.embed(reference.rgb, face)

    def watch(self, frames: Iterable[Frame]) -> Observation:
        """Read every frame, in order."""
        with ThreadPoolExecutor(1) as self._embedder:
            for frame in _one_ahead(iter(frames)):
                self._look(frame)
            self._take_embeddings(0)
        return self.seen

    def _take_embeddings(self, waiting: int) -> None:
        """Write down embeddings until at most `waiting` are left to come."""
        while len(self._embedding) > waiting:
            index, coming = self._embedding.pop(0)
            vector = coming.result()
            assert self.reference is not None
            assert self.reference.embedding is not None
            self.seen.identity[index] = float(vector @ self.reference.embedding)
            self.seen.embeddings.append(vector)
            self.seen.embedding_seconds.append(self.seen.seconds[index])
            self.seen.embedding_frames.append(index)

    def _look(self, frame: Frame) -> None:
        import cv2

        luma = _luma(frame.rgb)
        mean, deviation = cv2.meanStdDev(luma)
        seen = self.seen
        seen.seconds.append(frame.seconds)
        seen.luminance.append(float(mean[0, 0]))
        seen.contrast.append(float(deviation[0, 0]))
        seen.change.append(self._change(frame.rgb))
        if self._tracker is not None and frame.index == 0:
            seen.num_faces = self._tracker.count(frame.rgb)
        face = None if self._tracker is None else self._tracker.track(frame.rgb)
        if face is not None and self._tracker is not None and frame.index % WANDER_EVERY == 0:
            seen.wander.append(self._tracker.wander(frame.rgb, face))
        if face is None:
            self._previous_points = None
            for column in (seen.openness, seen.mouth_width, seen.speed, seen.roll, seen.head_x, seen.head_y):
                column.append(float("nan"))
            seen.presence.append(0.0)
            seen.anchors.append(np.full((NUM_GROUPS, 2), np.nan))
        else:
            self._measure(face)
        self._compare(frame, face)
        self._look_at_skin(frame, face)
        sampled = frame.index % SAMPLE_EVERY == 0
        seen.lattice.append(picture.lattice(luma) if sampled else float("nan"))
        if sampled:
            seen.bars.append(picture.bars(luma))

    def _look_at_skin(self, frame: Frame, face: Face | None) -> None:
        seen, unknown = self.seen, float("nan")
        before, self._previous_skin = self._previous_skin, None
        now = None if face is None else skin.read_upright(frame.rgb, face)
        self._previous_skin = now
        red, green, blue = (unknown,) * 3 if now is None else now.colour.tolist()
        seen.red.append(red)
        seen.green.append(green)
        seen.blue.append(blue)
        seen.spot_step.append(unknown if now is None or before is None else skin.spot_step(now, before))
        reference = self.reference
        readings = (unknown,) * 5
        if now is not None and face is not None and reference is not None and frame.index % SAMPLE_EVERY == 0:
            portrait, colour = reference.upright, reference.colour
            if portrait is not None and colour is not None:
                readings = (
                    skin.spots(now, portrait), skin.half_likeness(now, portrait),
                    skin.tints(skin.read_skin_colour(frame.rgb, face), colour),
                    skin.stretch(now, portrait), skin.turn(now) - skin.turn(portrait),
                )  # fmt: skip
        columns = (seen.spots, seen.half_likeness, seen.tints, seen.stretch, seen.turn)
        for column, value in zip(columns, readings, strict=True):
            column.append(value)

    def _change(self, rgb: np.ndarray) -> float:
        import cv2

        before, self._previous_rgb = self._previous_rgb, rgb
        if before is None or before.shape != rgb.shape:
            return float("nan")
        return float(cv2.norm(rgb, before, cv2.NORM_L1) / rgb.size)

    def _measure(self, face: Face) -> None:
        seen = self.seen
        if self._unit is None:
            self._unit = face.eye_distance
        seen.presence.append(face.presence)
        seen.openness.append(face.openness)
        seen.mouth_width.append(face.mouth_width)
        seen.roll.append(face.roll)
        anchors = motion.anchors(face, self._unit)
        seen.anchors.append(anchors)
        seen.head_x.append(float(anchors[1, 0]))
        seen.head_y.append(float(anchors[1, 1]))
        before, self._previous_points = self._previous_points, face.points
        if before is None:
            seen.speed.append(float("nan"))
            return
        step = seen.seconds[-1] - seen.seconds[-2]
        moved = np.linalg.norm(face.points - before, axis=1).mean() / self._unit
        seen.speed.append(float(moved / step) if step > 0 else float("nan"))

    def _compare(self, frame: Frame, face: Face | None) -> None:
        sharp = closeness = float("nan")
        index = len(self.seen.identity)
        self.seen.identity.append(float("nan"))
        reference = self.reference
        if face is not None and reference is not None and reference.face is not None:
            if self._texture is None:
                assert self._unit is not None
                self._texture = texture.portrait_texture(reference.rgb, reference.face, self._unit)
            sharp = texture.sharpness_ratio(frame.rgb, face, self._texture)
            if frame.index % SAMPLE_EVERY == 0:
                closeness = texture.texture_psnr(frame.rgb, face, self._texture)
                if self._identity is not None and reference.embedding is not None:
                    self._embedding.append((index, self._embedder.submit(self._identity.embed, frame.rgb, face)))
                    self._take_embeddings(EMBEDDINGS_WAITING)
        self.seen.sharpness_ratio.append(sharp)
        self.seen.texture_psnr.append(closeness)


def _one_ahead(frames: Iterator[Frame]) -> Iterator[Frame]:
    """Yield frames while the next one is decoded in another thread."""
    with ThreadPoolExecutor(1) as decoder:
        coming = decoder.submit(next, frames, None)
        while (frame := coming.result()) is not None:
            coming = decoder.submit(next, frames, None)
            yield frame


def _luma(rgb: np.ndarray) -> np.ndarray:
    import cv2

    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))
