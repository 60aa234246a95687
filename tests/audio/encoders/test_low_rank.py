"""Corrections of an encoder begin as nothing, are all that training changes, and are the same from their file."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from liveavatar.audio.encoders import low_rank
from liveavatar.audio.encoders.whisper_network import HOP, WhisperEncoder
from liveavatar.errors import CheckpointError

AUDIO = torch.sin(torch.arange(2 * 40 * HOP) * 0.1).reshape(2, -1)


def encoder(num_layers: int = 2) -> WhisperEncoder:
    """A small encoder of random weights, the same each time."""
    torch.manual_seed(0)
    return WhisperEncoder(80, 100, 64, num_layers).eval()


def tuned(rank: int = 3) -> WhisperEncoder:
    """An encoder with corrections that have an effect."""
    made = encoder()
    for parameter in low_rank.attach(made, rank):
        nn.init.normal_(parameter, std=0.1)
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The corrections of `tuned`."""
    path = tmp_path / low_rank.FILE
    low_rank.save(path, tuned())
    return path


def test_corrections_begin_as_nothing_and_are_all_that_trains() -> None:
    plain, made = encoder(), encoder()
    parameters = low_rank.attach(made, 3)
    assert torch.equal(made(AUDIO), plain(AUDIO))
    made(AUDIO)[:, -1].square().mean().backward()
    assert {id(p) for p in made.parameters() if p.requires_grad} == {id(p) for p in parameters}
    assert {id(p) for p in made.parameters() if p.grad is not None} == {id(p) for p in parameters}
    assert len(parameters) == 2 * 2 * 6, "two matrices for each of six maps in two layers"
    assert {min(p.shape) for p in parameters} == {3}


def test_a_file_gives_the_same_encoder(file: Path) -> None:
    plain, made, trained = encoder(), encoder(), tuned()
    low_rank.add(made, file)
    with torch.no_grad():
        torch.testing.assert_close(made(AUDIO), trained(AUDIO), atol=2e-3, rtol=2e-3)
        assert (made(AUDIO) - plain(AUDIO))[:, 1:].abs().max() > 0.1
        assert torch.equal(made(AUDIO)[:, 0], plain(AUDIO)[:, 0]), "nothing linear lies before the first state"
    assert {t.dtype for t in load_file(file).values()} == {torch.float16}


def edit(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    """Make a change of a file's tensors."""

    def write(path: Path) -> None:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return write


QUERY = "blocks.0.attn.query"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(Path.unlink, "holds no corrections", id="missing"),
        pytest.param(lambda path: path.write_bytes(b""), "holds no corrections", id="empty"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-100]), "holds no corrections", id="cut short"),
        pytest.param(edit(dict.clear), r"another speech encoder \(blocks.0.attn.key.down, ", id="no tensor"),
        pytest.param(
            edit(lambda t: t.pop(f"{QUERY}.up")), rf"another speech encoder \({QUERY}.up\)", id="a layer's half"
        ),
        pytest.param(
            edit(lambda t: t.update({"head.up": torch.zeros(1)})), r"encoder \(head.up\)", id="a layer too many"
        ),
        pytest.param(
            edit(lambda t: t.update({f"{QUERY}.up": torch.zeros(1, 3)})), rf"encoder \({QUERY}\)", id="another width"
        ),
        pytest.param(
            edit(lambda t: t.update({f"{QUERY}.up": torch.zeros(64, 2)})), rf"encoder \({QUERY}\)", id="two ranks"
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused(file: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(file)
    made = encoder()
    with pytest.raises(CheckpointError, match=said) as refused:
        low_rank.add(made, file)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), encoder().parameters(), strict=True))


def test_corrections_of_a_deeper_encoder_are_refused(tmp_path: Path) -> None:
    deeper = encoder(3)
    low_rank.attach(deeper, 3)
    low_rank.save(tmp_path / low_rank.FILE, deeper)
    with pytest.raises(CheckpointError, match=r"another speech encoder \(blocks\.2"):
        low_rank.add(encoder(), tmp_path / low_rank.FILE)
