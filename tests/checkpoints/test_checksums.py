"""Digests of a model: a flipped bit is refused with the file's name, at little cost for what has not changed."""

import os
import shutil
from pathlib import Path

import pytest

from liveavatar import paths
from liveavatar.checkpoints import checksums
from liveavatar.checkpoints.checksums import CHECKSUMS, file_sha256, list_written, read_list, require_intact, verify
from liveavatar.errors import CheckpointError
from liveavatar.load import load_engine


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def flip_bit(path: Path) -> None:
    """Change one bit in the last byte of a file, whose time stays as it was."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("name", ["dit.safetensors", "vae.safetensors", "text.safetensors"])
def test_a_flipped_bit_in_weights_is_refused_with_the_way_out(name: str, model: Path) -> None:
    require_intact(model)
    flip_bit(model / name)
    with pytest.raises(
        CheckpointError, match=rf"{name} is damaged: .*copy it again; if you .*, take it off {CHECKSUMS}"
    ):
        require_intact(model)
    with pytest.raises(CheckpointError, match=f"{name} is damaged"):
        load_engine(model, device="cpu")
    (model / CHECKSUMS).unlink()
    require_intact(model)


def test_what_has_not_changed_is_not_read_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_intact(model)
    monkeypatch.setattr(checksums, "sha256", lambda _: pytest.fail("read again"))
    require_intact(model)
    with pytest.raises(pytest.fail.Exception, match="read again"):
        require_intact(model, again=True)


def test_a_config_may_be_changed_and_a_file_may_be_missing(model: Path) -> None:
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    (model / "vae.safetensors").unlink()
    require_intact(model)
    with pytest.raises(
        CheckpointError, match=r"config\.json has \d+ bytes instead of \d+; vae\.safetensors is missing"
    ):
        verify(model)


def test_the_embedded_model_is_as_its_list_says_and_the_list_has_all_of_it() -> None:
    assert {"config.json", *(path.name for path in paths.MINI_DIR.glob("*.safetensors"))} == set(
        read_list(paths.MINI_DIR)
    )
    require_intact(paths.MINI_DIR)


@pytest.mark.parametrize("name", ["dit.safetensors", "config.json"])
@pytest.mark.parametrize(
    ("checkout", "words"),
    [
        pytest.param(True, "`git checkout -- data/models/mini` in /", id="checkout"),
        pytest.param(False, "`pip install --force-reinstall", id="wheel"),
    ],
)
def test_an_embedded_model_with_a_flipped_bit_is_refused(
    name: str, checkout: bool, words: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = tmp_path / "data" / "models" / "mini"
    embedded.parent.mkdir(parents=True)
    model.rename(embedded)
    monkeypatch.setattr(paths, "MINI_DIR", embedded)
    monkeypatch.setattr(paths, "REPO_ROOT", tmp_path)
    monkeypatch.setattr(paths, "CHECKOUT", checkout)
    require_intact(embedded)
    flip_bit(embedded / name)
    with pytest.raises(CheckpointError, match=f"{name} is damaged: .* {words}"):
        require_intact(embedded)


def test_a_fetched_model_is_fetched_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_MODELS", str(model.parent))
    flip_bit(model / "vae.safetensors")
    with pytest.raises(CheckpointError, match="`liveavatar models fetch model`"):
        require_intact(model)


def test_a_part_that_is_written_anew_leaves_the_others_on_the_list(model: Path) -> None:
    before = read_list(model)
    (model / "vae.safetensors").write_bytes(b"other")
    (model / "text.safetensors").unlink()
    list_written(model, [model / "vae.safetensors"])
    after = read_list(model)
    assert (after["dit.safetensors"], after["vae.safetensors"].size) == (before["dit.safetensors"], 5)
    assert "text.safetensors" not in after


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    first = file_sha256(path)
    (memo,) = paths.digests().glob("*.json")
    with monkeypatch.context() as patch:
        patch.setattr(checksums, "sha256", lambda _: pytest.fail("hashed again"))
        assert file_sha256(path) == first
    memo.write_text("[")
    assert file_sha256(path) == first, "a damaged entry is made again"
    flip_bit(path)
    assert file_sha256(path) != first, "although size and time are as before"
