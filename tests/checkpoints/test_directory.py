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
        pytest.param(TINY.to_json().replace("tiny", "tin\xff").encode("latin-1"), "no Live Avatar", id="Latin-1"),
        pytest.param("[" * 100_000, "nested too deeply", id="nested without end"),
        pytest.param(TINY.to_json().replace('"dim": 32', '"dim": "32"'), "dim is '32'", id="a word for a number"),
        pytest.param(TINY.to_json().replace('"dim": 32', '"dim": 32.5'), "dim is 32.5", id="no whole number"),
        pytest.param(TINY.to_json().replace('"dim": 32', '"dim": 4e9'), "dim is 4000000000", id="a huge number"),
        pytest.param(TINY.to_json().replace('"num_layers": 2', '"num_layers": 99999'), "num_layers", id="a tower"),
        pytest.param(TINY.to_json().replace('"eps": 1e-06', '"eps": NaN'), "eps is nan", id="not a number"),
        pytest.param(TINY.to_json().replace('"reanchor": false', '"reanchor": 0'), "reanchor is 0", id="no switch"),
        pytest.param(None, "holds no config.json", id="none"),
        pytest.param("{", "no Live Avatar model config", id="no JSON"),
        pytest.param('{"model_type": "live-avatar"}', "no Live Avatar model config", id="no networks"),
        pytest.param("[]", "no Live Avatar model config", id="a list"),
    ],
)
def test_a_broken_config_is_refused(content: str | bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=message):
        read_config(tmp_path)
