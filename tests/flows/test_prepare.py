"""Fetching and verifying models: what is verified, damage, and a hub that does not answer."""

import shutil
from pathlib import Path

import pytest

from flows import prepare
from liveavatar.checkpoints import hub
from liveavatar.checkpoints.checksums import file_sha256
from liveavatar.checkpoints.load import model_digest
from liveavatar.errors import CheckpointError, InputError


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_a_model_directory_is_verified_as_it_is(model: Path) -> None:
    report = prepare.prepare(str(model))
    assert (report["folder"], report["sha256"]) == (str(model), model_digest(model))
    assert report["files"] == {path.name: file_sha256(path) for path in model.iterdir()}
    assert report["tensors"] > 50


def test_a_cut_weight_file_is_refused(model: Path) -> None:
    weights = max(model.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=weights.name):
        prepare.verify_model(model)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        pytest.param(InputError("no network"), r"models fetch live-avatar-14b: .*no network.*HF_ENDPOINT", id="no hub"),
        pytest.param(CheckpointError("damaged"), "^damaged$", id="damage keeps its own words"),
    ],
)
def test_a_failed_download_is_one_line(
    error: InputError, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(hub, "fetch", fail)
    with pytest.raises(type(error), match=message):
        prepare.prepare("live-avatar-14b")
