"""Weight files: shards, checks of names and shapes."""

from pathlib import Path

import pytest
import torch

from liveavatar.checkpoints.weight_files import (
    check_keys,
    part_files,
    read_pickle,
    read_tensors,
    shapes_of,
    write_part,
)
from liveavatar.errors import CheckpointError

WEIGHTS = {f"layer.{i}": torch.full((100, 10), float(i)) for i in range(5)}  # 4000 bytes each


@pytest.mark.parametrize(
    ("shard_bytes", "num_files"),
    [
        pytest.param(20_000, 1, id="just fits one"),
        pytest.param(19_999, 2, id="a byte too much"),
        pytest.param(8_000, 3, id="two in a shard"),
        pytest.param(100, 5, id="a tensor larger than a shard has one of its own"),
    ],
)
def test_shards(shard_bytes: int, num_files: int, tmp_path: Path) -> None:
    files = write_part(tmp_path, "dit", WEIGHTS, shard_bytes=shard_bytes)
    assert len(files) == num_files
    assert part_files(tmp_path, "dit") == files
    assert shapes_of(files) == {name: tensor.shape for name, tensor in WEIGHTS.items()}
    stored = dict(read_tensors(files))
    assert stored.keys() == WEIGHTS.keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in WEIGHTS.items())


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_missing_shard_is_named(index: int, tmp_path: Path) -> None:
    files = write_part(tmp_path, "dit", WEIGHTS, shard_bytes=8_000)
    files[index].unlink()
    with pytest.raises(CheckpointError, match=files[index].name):
        part_files(tmp_path, "dit")


def test_writing_again_leaves_no_old_shards_and_no_other_part(tmp_path: Path) -> None:
    write_part(tmp_path, "dit", WEIGHTS, shard_bytes=8_000)
    write_part(tmp_path, "dit-head", WEIGHTS)
    write_part(tmp_path, "dit", WEIGHTS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dit-head.safetensors", "dit.safetensors"]
    assert part_files(tmp_path, "vae") == []


SHAPES = {"a": torch.Size((2, 3)), "b": torch.Size((4,))}


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        pytest.param({"a": SHAPES["a"]}, "1 missing: b", id="missing"),
        pytest.param(SHAPES | {"c": torch.Size((1,))}, "1 unexpected: c", id="unexpected"),
        pytest.param(SHAPES | {"b": torch.Size((5,))}, r"b \[5\] instead of \[4\]", id="shape"),
        pytest.param(
            SHAPES | {f"x{i}": torch.Size((1,)) for i in range(6)}, r"6 unexpected.*x3, ... \(2 more\)", id="many"
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(stored: dict[str, torch.Size], message: str) -> None:
    check_keys("here", SHAPES, SHAPES)
    with pytest.raises(CheckpointError, match=f"here does not fit.*{message}"):
        check_keys("here", stored, SHAPES)


@pytest.mark.parametrize("new", [pytest.param(True, id="archive"), pytest.param(False, id="before torch 1.6")])
def test_both_forms_of_a_pickle_are_read(new: bool, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    assert torch.equal(read_pickle(tmp_path / "a.pth")["a"], torch.ones(3))


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_cut_pickle_is_refused_in_one_line(new: bool, share: float, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=new)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=r"a\.pth cannot be loaded safely .* fetch the published file again"):
        read_pickle(path)


def test_an_archive_that_claims_several_disks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(3)}, path)
    data = bytearray(path.read_bytes())
    locator = data.rindex(b"PK\x06\x07")  # zip64: total number of disks
    data[locator + 16] = 7
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="cannot be loaded safely"):
        read_pickle(path)
