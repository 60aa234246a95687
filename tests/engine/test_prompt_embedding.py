"""Rows of prompts that a large encoder made: remembered by content, damage of its files named."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from liveavatar import paths
from liveavatar.checkpoints.released import TEXT_NAME
from liveavatar.engine import prompt_embedding
from liveavatar.errors import CheckpointError
from tests.released import SCALED, drop, make_released

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_released(tmp_path_factory.mktemp("released") / "live-avatar-14b")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))


def test_prompt_rows_are_remembered_by_content(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    first = prompt_embedding.prompt_rows(folder, SCALED.text, "a  calm woman &amp; light", cpu)
    assert first.shape == (1, 6, 16)  # its own tokens and the end mark, no padding
    monkeypatch.setattr(prompt_embedding, "build_umt5", lambda weights: pytest.fail("the encoder was loaded again"))
    assert torch.equal(prompt_embedding.prompt_rows(folder, SCALED.text, "a calm woman & light", cpu), first)


def test_damaged_rows_are_made_again(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    cpu = torch.device("cpu")
    first = prompt_embedding.prompt_rows(folder, SCALED.text, "a calm woman", cpu)
    (path,) = paths.prompts().iterdir()
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    assert torch.equal(prompt_embedding.prompt_rows(folder, SCALED.text, "a calm woman", cpu), first)
    assert "rows of the prompt are damaged" in caplog.text


def test_another_prompt_or_length_has_rows_of_its_own(folder: Path) -> None:
    cpu = torch.device("cpu")
    long = prompt_embedding.prompt_rows(folder, SCALED.text, "a calm woman in warm light", cpu)
    short = prompt_embedding.prompt_rows(folder, replace(SCALED.text, length=4), "a calm woman in warm light", cpu)
    other = prompt_embedding.prompt_rows(folder, SCALED.text, "a calm man in warm light", cpu)
    assert (long.shape[1], short.shape[1]) == (7, 4)
    assert not torch.equal(long, other)
    assert len(list(paths.prompts().iterdir())) == 3, "and nothing is left half written"


def test_rows_of_another_width_are_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="gives rows of 16, the model wants 32"):
        prompt_embedding.prompt_rows(folder, replace(SCALED.text, dim=32), "a man", torch.device("cpu"))
    assert not list(paths.prompts().glob("*")), "nor remembered"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(drop(TEXT_NAME), "has no models_t5", id="no prompt encoder"),
        pytest.param(drop("google/umt5-xxl"), "no tokenizer", id="no tokenizer"),
        pytest.param(
            lambda b: (b / "models_t5_umt5-xxl-enc-bf16.pth").write_bytes(b"PK\x03\x04" + b"\0" * 64),
            "safely",
            id="cut",
        ),
        pytest.param(
            lambda b: torch.save({"blocks.0.norm1.weight": torch.ones(3)}, b / TEXT_NAME), "lacks", id="another encoder"
        ),
    ],
)
def test_prompt_encoder_damage_is_named(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    root = make_released(tmp_path / "m")
    damage(root / "Wan2.2-S2V-14B")
    with pytest.raises(CheckpointError, match=message):
        prompt_embedding.prompt_rows(root, SCALED.text, "a man", torch.device("cpu"))
