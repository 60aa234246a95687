"""A model directory of the user's is read in a worker first: what is damaged or a bomb is refused in one line."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from liveavatar import paths
from liveavatar.checkpoints import headers
from liveavatar.checkpoints.headers import MAX_CONFIG_BYTES, complete_model_dir, readable_model_dir
from liveavatar.errors import CheckpointError, InputError


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def weights(folder: Path) -> Path:
    """One of the weight files."""
    return next(folder.glob("vae*.safetensors"))


def test_a_whole_model_is_checked_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert readable_model_dir(str(model)) == model
    monkeypatch.setattr(headers, "isolated", lambda *_, **__: pytest.fail("it was checked again"))
    assert readable_model_dir(str(model)) == model
    assert readable_model_dir("mini") == paths.MINI_DIR


def _header(length: int, content: bytes = b"") -> Callable[[Path], object]:
    return lambda folder: weights(folder).write_bytes(struct.pack("<Q", length) + content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(_header(2**60), "its header would have", id="a huge header"),
        pytest.param(_header(8, b"[[[[[[[["), "no readable safetensors", id="a broken header"),
        pytest.param(lambda f: weights(f).write_bytes(b""), "no readable safetensors", id="an empty file"),
        pytest.param(
            lambda f: (f / "config.json").write_bytes(b" " * (MAX_CONFIG_BYTES + 1)), "no config of a model", id="size"
        ),
        pytest.param(
            lambda f: (f / "vae.pth").write_bytes(b"PK\x03\x04" * 99), "cannot be loaded safely", id="archive"
        ),
        pytest.param(
            lambda f: (f / "config.json").write_text(json.dumps({"dit": {"num_layers": "many"}})), "config", id="a word"
        ),
    ],
)
def test_what_is_damaged_is_refused_before_it_is_mapped(
    damage: Callable[[Path], object], message: str, model: Path
) -> None:
    damage(model)
    with pytest.raises(CheckpointError, match=message):
        headers.check_files(model, on_progress=lambda: None)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(_header(100_000, b"[" * 100_000), "no readable safetensors", id="a header nested without end"),
        pytest.param(lambda f: (f / "config.json").write_text("[" * 100_000), "config.json", id="a nested config"),
    ],
)
def test_what_may_crash_its_reader_is_read_in_a_worker(
    damage: Callable[[Path], object], message: str, model: Path
) -> None:
    damage(model)
    with pytest.raises(CheckpointError, match=message):
        readable_model_dir(str(model))


def test_a_missing_directory_is_named() -> None:
    with pytest.raises(InputError, match="no model directory at nowhere"):
        readable_model_dir("nowhere")


def _changed(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        tensors = load_file(weights(folder))
        change(tensors)
        save_file(tensors, weights(folder))

    return damage


def _config(**values: object) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["dit"] |= values
        (folder / "config.json").write_text(json.dumps(config))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(_changed(lambda t: t.pop(next(iter(t)))), id="a missing tensor"),
        pytest.param(_changed(lambda t: t.update(more=torch.zeros(1))), id="one too many"),
        pytest.param(_changed(lambda t: t.update({next(iter(t)): torch.zeros(7)})), id="another shape"),
        pytest.param(lambda f: weights(f).unlink(), id="a missing file"),
        pytest.param(_config(dim=-8), id="a negative size"),
        pytest.param(_config(num_layers=1), id="another size"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_the_render(damage: Callable[[Path], object], model: Path) -> None:
    damage(model)
    with pytest.raises(CheckpointError):
        headers.check_weights(model, on_progress=lambda: None)


def test_a_refusal_comes_out_of_the_worker(model: Path) -> None:
    _config(dim=-8)(model)
    with pytest.raises(CheckpointError, match="config"):
        complete_model_dir(str(model))


def test_weights_that_fit_are_compared_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert complete_model_dir(str(model)) == model
    monkeypatch.setattr(headers, "isolated", lambda *_, **__: pytest.fail("it was checked again"))
    assert complete_model_dir(str(model)) == model
    assert complete_model_dir("mini") == paths.MINI_DIR
