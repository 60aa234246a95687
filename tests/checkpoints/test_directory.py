"""Model directories by name, and their config."""

from pathlib import Path

import pytest

from liveavatar import paths
from liveavatar.checkpoints.directory import read_config, resolve_model_dir
from liveavatar.config import MINI, TINY
from liveavatar.errors import CheckpointError, InputError


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))


def test_the_embedded_model_is_found_by_name() -> None:
    assert resolve_model_dir("mini") == paths.MINI_DIR
    assert read_config(paths.MINI_DIR).name == MINI.name


def test_another_preset_lies_below_the_home() -> None:
    folder = paths.models_home() / "live-avatar-14b"
    folder.mkdir(parents=True)
    assert resolve_model_dir("live-avatar-14b") == folder


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        pytest.param("live-avatar-14b", "models fetch live-avatar-14b", id="preset that was not fetched"),
        pytest.param("maxi", "known names: mini", id="unknown name"),
    ],
)
def test_a_missing_directory_is_refused(model: str, hint: str) -> None:
    with pytest.raises(InputError, match=f"--model {model}: there is no model directory.*{hint}"):
        resolve_model_dir(model)


def test_config_of_our_own_layout(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(TINY.to_json())
    assert resolve_model_dir(str(tmp_path)) == tmp_path
    assert read_config(tmp_path) == TINY


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "holds no config.json", id="none"),
        pytest.param("{", "no Live Avatar model config", id="no JSON"),
        pytest.param('{"model_type": "live-avatar"}', "no Live Avatar model config", id="no networks"),
        pytest.param("[]", "no Live Avatar model config", id="a list"),
    ],
)
def test_a_broken_config_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        read_config(tmp_path)
