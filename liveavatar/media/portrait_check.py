"""Verdict on a portrait before anything is rendered: will this face speak?

It is read off the picture; docs/portraits.md has the trial behind the limits.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from liveavatar.config import FRAME_FACE, ModelConfig
from liveavatar.errors import InputError
from liveavatar.face.detect import find_face, find_faces
from liveavatar.face.head_pose import face_pose
from liveavatar.face.landmarks import UNSTEADY, Face, FaceTracker
from liveavatar.face.models import FaceModelUnavailable
from liveavatar.media.framing import FramedPortrait, Framing, choose_face, frame_portrait, keeps_picture
from liveavatar.media.lips import Lips, shut_lips
from liveavatar.media.portrait import EYE_DISTANCE, WIDE_EYE_DISTANCE, fit_portrait

WILL, MAY_NOT, WILL_NOT = "will speak", "may not speak", "will not speak"
SMALL, TINY = 2.0, 4.0  # enlargement of the picture for the model
TIGHT, TOO_TIGHT = 1.3, 1.5  # face in the model's picture over that of training
FAR, TOO_FAR = 0.75, 0.65  # the same of a small face
TURNED, AVERTED = 20.0, 30.0  # degrees of yaw
TILTED = 20.0  # degrees of roll
PARTED, OPEN = 0.03, 0.16  # mouth openness, eye distances: lips are shut for the model; it may not speak


@dataclass(frozen=True, kw_only=True, slots=True)
class PortraitCheck:
    """Findings about a portrait, and the verdict whether it will speak."""

    verdict: str
    reasons: tuple[str, ...]  # each with the way out
    remarks: tuple[str, ...] = ()  # what could be better in a portrait that speaks
    faces: int
    enlarged: float | None = None  # of the picture for the model
    scale: float | None = None  # of the face in the model's picture over that of training
    room: float | None = None  # share of the model's picture that was added around the face
    yaw: float | None = None  # degrees
    roll: float | None = None
    openness: float | None = None  # of the mouth, eye distances
    photographic: bool | None = None  # False: a drawing, mask or creature, whose landmarks wander

    def to_dict(self) -> dict[str, Any]:
        """Return the values as JSON holds them, and the verdict in one line."""
        return {**asdict(self), "line": self.line}

    @property
    def line(self) -> str:
        """The verdict in one line."""
        said = (*self.reasons, *self.remarks)
        return f"the portrait {self.verdict}" + (f": {'; '.join(said)}" if said else "")

    def require(self) -> None:
        """Refuse a portrait that may not speak, as `--strict_portrait` does.

        Raises:
            InputError: with the reasons.
        """
        if self.verdict != WILL:
            raise InputError(f"--image: {self.line}; or drop --strict_portrait")


def no_face() -> PortraitCheck:
    """Judge a picture in which no face was found."""
    reason = "no face is found; give a picture of one face, seen from the front"
    return PortraitCheck(verdict=WILL_NOT, reasons=(reason,), faces=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedPortrait:
    """A portrait for a model, and what is thought of it."""

    picture: np.ndarray  # uint8 [H, W, 3], the model's
    framed: FramedPortrait | None  # None: the video has the model's framing
    check: PortraitCheck | None  # None: the model renders any picture


def judge_portrait(rgb: np.ndarray, asked: Framing, cfg: ModelConfig) -> JudgedPortrait:
    """Frame a picture for a model and say whether it will speak.

    Args:
        rgb: uint8 [H, W, 3].
        asked: size, framing and face.
        cfg: of the model.

    Raises:
        InputError: there is no such face, or the model has no such size or framing.
    """
    keeps = keeps_picture(asked.framing, cfg)
    faces = find_faces(rgb) if cfg.framing == FRAME_FACE or asked.face > 1 else []
    face = choose_face(faces, asked.face)
    if face is None or not keeps:
        listed = asked.size if asked.size is not None and (not keeps or asked.size in cfg.areas) else cfg.default_area
        picture = fit_portrait(rgb, listed, cfg, face)
        if cfg.framing != FRAME_FACE:
            return JudgedPortrait(picture=picture, framed=None, check=None)
        if face is None:
            return JudgedPortrait(picture=picture, framed=None, check=no_face())
        reading = FaceReading.of(picture)
        check = _check(picture, reading, faces=len(faces))
        shut = picture if reading is None or reading.parted is None else shut_lips(picture, reading.parted)
        return JudgedPortrait(picture=shut, framed=None, check=check)
    framed = frame_portrait(rgb, asked.size, cfg, face)
    reading = FaceReading.of(framed.model)
    check = _check(framed.model, reading, faces=len(faces), enlarged=framed.enlarged, room=framed.room)
    if reading is not None and reading.parted is not None:
        framed = framed.with_shut_lips(reading.parted)
    return JudgedPortrait(picture=framed.model, framed=framed, check=check)


@dataclass(frozen=True, slots=True)
class FaceReading:
    """A face as landmarks read it."""

    face: Face | None
    steady: bool = False  # landmarks stay where they are when read again

    @classmethod
    def of(cls, rgb: np.ndarray) -> "FaceReading | None":
        """Read the face of a picture; None where the models are missing."""
        try:
            tracker = FaceTracker()
        except FaceModelUnavailable:
            return None
        face = tracker.find(rgb)
        return cls(face, face is not None and tracker.wander(rgb, face) <= UNSTEADY)

    @property
    def parted(self) -> Lips | None:
        """Return the lips, where they are parted and known well enough to be shut."""
        return Lips.of(self.face) if self.face is not None and self.steady and self.face.openness > PARTED else None


def _check(
    model: np.ndarray, reading: FaceReading | None, *, faces: int, enlarged: float = 1.0, room: float = 0.0
) -> PortraitCheck:
    """Judge a framed portrait.

    Args:
        model: uint8 [H, W, 3], the model's picture.
        reading: its face.
        faces: found in the user's picture.
        enlarged: how many times the user's picture was enlarged for the model.
        room: share of the model's picture that was added.
    """
    facts: dict[str, Any] = {"faces": faces, "enlarged": round(enlarged, 2), "room": round(room, 3)}
    doubts, faults = _of_size(enlarged)
    shown = find_face(model)
    if shown is not None:
        wide = model.shape[1] > model.shape[0]
        scale = shown.eye_distance / model.shape[0] / (WIDE_EYE_DISTANCE if wide else EYE_DISTANCE)
        facts["scale"] = round(scale, 2)
        if scale > TIGHT:
            text = f"the face fills the picture ({scale:.1f} times the size of training); use --framing portrait"
            (faults if scale > TOO_TIGHT else doubts).append(text)
        if scale < FAR:
            text = f"the face is small in the picture ({scale:.1f} times the size of training); use --framing portrait"
            (faults if scale < TOO_FAR else doubts).append(text)
    if reading is None:
        return _verdict(doubts, faults, facts)
    face = reading.face
    if face is None:
        faults.append("the face cannot be read; give a clear picture, seen from the front")
        return _verdict(doubts, faults, facts)
    yaw, _, roll = np.degrees(face_pose(face, model.shape[:2]))
    facts |= {"yaw": round(float(yaw), 1), "roll": round(float(roll), 1), "openness": round(face.openness, 3)}
    facts["photographic"] = reading.steady
    if not reading.steady:
        doubts.append("it looks drawn or masked, which the model was not trained on; try a photograph")
    if abs(yaw) > TURNED:
        text = f"the head is turned {abs(yaw):.0f} degrees; give one seen from the front, within {TURNED:.0f}"
        (faults if abs(yaw) > AVERTED else doubts).append(text)
    if abs(roll) > TILTED:
        doubts.append(f"the head is tilted {abs(roll):.0f} degrees; turn the picture upright")
    if face.openness > OPEN:
        doubts.append("the mouth is wide open; give a picture with closed lips")
    elif reading.parted is not None:
        facts["remarks"] = ("the lips are parted, and are shut before it speaks",)
    return _verdict(doubts, faults, facts)


def _of_size(enlarged: float) -> tuple[list[str], list[str]]:
    text = f"the face is small (enlarged {enlarged:.1f} times); give a larger picture, or one taken nearer"
    if enlarged <= SMALL:
        return [], []
    return ([], [text]) if enlarged > TINY else ([text], [])


def _verdict(doubts: list[str], faults: list[str], facts: dict[str, Any]) -> PortraitCheck:
    verdict = WILL_NOT if faults else MAY_NOT if doubts else WILL
    return PortraitCheck(verdict=verdict, reasons=(*faults, *doubts), **facts)
