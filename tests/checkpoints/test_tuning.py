"""Corrections of a speech encoder are found in the model directory that the config belongs to."""

from dataclasses import replace
from pathlib import Path

import pytest

from liveavatar.checkpoints.tuning import tuning_file
from liveavatar.config import MINI
from liveavatar.errors import CheckpointError, InputError

TUNED = replace(MINI.speech, tuning="speech.safetensors")


def test_an_encoder_as_published_has_none(tmp_path: Path) -> None:
    (tmp_path / TUNED.tuning).touch()
    assert tuning_file(MINI.speech, tmp_path) is None
    assert tuning_file(MINI.speech, None) is None


def test_corrections_lie_in_the_model_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path} has no speech.safetensors, .*copy the model again"):
        tuning_file(TUNED, tmp_path)
    (tmp_path / TUNED.tuning).touch()
    assert tuning_file(TUNED, tmp_path) == tmp_path / TUNED.tuning


def test_without_a_model_directory_it_is_asked_for() -> None:
    with pytest.raises(InputError, match="lies in a model directory; name it with --model"):
        tuning_file(TUNED, None)


@pytest.mark.parametrize("name", ["../speech.safetensors", "sub/speech.safetensors", "..", "."])
def test_a_file_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    model = tmp_path / "model"
    (model / "sub").mkdir(parents=True)
    for folder in (tmp_path, model / "sub"):
        (folder / "speech.safetensors").touch()
    with pytest.raises(CheckpointError, match="has no "):
        tuning_file(replace(TUNED, tuning=name), model)
