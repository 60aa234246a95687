"""Digests of a model: computed once, and again when a file changes."""

import shutil
from pathlib import Path

import pytest

from liveavatar.checkpoints import load
from liveavatar.checkpoints.checksums import file_sha256
from tasks.store.model import digest_of, files_of


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_files_are_listed_with_their_digests(model: Path) -> None:
    (model / "README.md").write_text("no weight")
    files = files_of(model)
    assert "config.json" in files
    assert "README.md" not in files
    assert files == {name: file_sha256(model / name) for name in files}


def test_a_folder_with_a_name_that_is_not_utf8(model: Path) -> None:
    odd = model.rename(model.with_name("Jos\udce9"))
    assert files_of(odd) == files_of(odd)


def test_asking_again_loads_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = digest_of(model)
    with monkeypatch.context() as patch:
        patch.setattr(load, "model_digest", None)
        assert digest_of(model) == digest
    config = model / "config.json"
    config.write_text(config.read_text() + "\n")
    assert files_of(model)["config.json"] == file_sha256(config), "a changed file is read again"
