"""Snapshots: atomic, of one job, and a damaged one falls back to the one before."""

from pathlib import Path

import pytest
import torch

from liveavatar.engine.snapshot import read_snapshot, write_snapshot
from liveavatar.errors import InputError


def state(value: float) -> dict[str, torch.Tensor]:
    return {"position": torch.tensor(int(value)), "cache0.k": torch.full((2, 3), value, dtype=torch.bfloat16)}


def test_newest_is_read_and_two_are_kept(tmp_path: Path) -> None:
    for block in (4, 8, 12):
        write_snapshot(tmp_path, block, "job", state(block))
    read = read_snapshot(tmp_path, "job")
    assert read is not None
    assert int(read["position"]) == 12
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("keep_bytes", [0, 7, 100], ids=["empty", "half a header", "no tensors"])
def test_damaged_snapshot_falls_back(tmp_path: Path, keep_bytes: int) -> None:
    write_snapshot(tmp_path, 4, "job", state(4))
    newest = write_snapshot(tmp_path, 8, "job", state(8))
    newest.write_bytes(newest.read_bytes()[:keep_bytes])
    read = read_snapshot(tmp_path, "job")
    assert read is not None
    assert int(read["position"]) == 4


def test_snapshot_of_another_job_is_refused(tmp_path: Path) -> None:
    write_snapshot(tmp_path, 4, "one job", state(4))
    with pytest.raises(InputError, match="another job"):
        read_snapshot(tmp_path, "another")


def test_no_snapshot_is_none(tmp_path: Path) -> None:
    assert read_snapshot(tmp_path / "absent", "job") is None
