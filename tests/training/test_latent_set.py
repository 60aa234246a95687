"""Encoded clips: joined by orientation, shared by rank, as they were saved."""

from pathlib import Path

import pytest
import torch

from liveavatar.errors import InputError
from liveavatar.training.latent_set import LatentSet, join, load_latents, save_latents

CPU = torch.device("cpu")


def made_up(value: float, size: tuple[int, int] = (4, 2), count: int = 2) -> LatentSet:
    """Clips of one value; its fields have each a size of their own behind the number of clips."""
    fields = LatentSet.__dataclass_fields__
    parts = {name: torch.full((count, i + 1), value + i) for i, name in enumerate(fields)}
    return LatentSet(**parts | {"latents": torch.full((count, 8, 6, *size), value)})


def test_joining_keeps_the_order_in_every_field() -> None:
    joined = join([made_up(1.0, count=2), made_up(5.0, count=1)])
    for i, (name, tensor) in enumerate(joined.tensors().items()):
        first = 0 if name == "latents" else i
        assert tensor.flatten(1)[:, 0].tolist() == [1 + first, 1 + first, 5 + first], name


def test_ranks_share_the_files_and_orientations_stay_apart(tmp_path: Path) -> None:
    for k in range(3):
        save_latents(tmp_path / f"latents_train_{k}.pt", [made_up(k, (2, 4)), made_up(10 + k, (4, 2))])
    save_latents(tmp_path / "latents_eval_0.pt", [made_up(99)])
    wide, tall = load_latents(tmp_path, "train", CPU, rank=0, world=2)
    assert wide.latents.shape[3:] == (2, 4)
    assert wide.latents[:, 0, 0, 0, 0].tolist() == [0, 0, 2, 2]
    assert tall.latents[:, 0, 0, 0, 0].tolist() == [10, 10, 12, 12]
    assert [s.latents[0, 0, 0, 0, 0].item() for s in load_latents(tmp_path, "train", CPU, rank=1, world=2)] == [1, 11]
    (held,) = load_latents(tmp_path, "eval", CPU)
    assert all(torch.equal(tensor, made_up(99).tensors()[name]) for name, tensor in held.tensors().items())


def test_fewer_files_than_ranks_are_refused(tmp_path: Path) -> None:
    save_latents(tmp_path / "latents_train_0.pt", [made_up(0)])
    with pytest.raises(InputError, match="for 2 processes; encode with as many"):
        load_latents(tmp_path, "train", CPU, rank=1, world=2)


def test_all_fields_move() -> None:
    assert {t.device.type for t in made_up(0).to(torch.device("meta")).tensors().values()} == {"meta"}
