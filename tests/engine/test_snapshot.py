"""Snapshots: atomic, of one job, and a damaged one falls back to the one before."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file

from liveavatar.engine.snapshot import drop_newer_snapshots, pieces, read_snapshot, write_snapshot
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


def test_pieces_make_a_file_of_tensors_however_they_lie() -> None:
    held = torch.arange(5 * 6 * 16, dtype=torch.uint8).view(5, 6, 16)
    tensors = {
        "k": held[..., :8].view(torch.float8_e4m3fn).unflatten(-1, (2, 4)).permute(0, 2, 1, 3),
        "scale": held[..., 8:].view(torch.float32).mT,
        "v": torch.rand(3, 4).bfloat16(),
        "count": torch.tensor(7),
        "nothing": torch.zeros(0, 3),
        "bytes": torch.tensor([-1, 2], dtype=torch.int8),
    }
    made = list(pieces(tensors, {"version": "2"}))
    read = load(b"".join(bytes(piece) for piece in made))
    assert read.keys() == tensors.keys()
    for name, t in tensors.items():
        assert read[name].dtype == t.dtype
        assert torch.equal(
            read[name].view(torch.uint8) if name == "k" else read[name].nan_to_num(),
            t.contiguous().view(torch.uint8) if name == "k" else t.nan_to_num(),
        ), name
    largest = max(len(bytes(piece)) for piece in made[2:])
    assert largest == 6 * 8, "a piece is no more than one entry of the first dimension"


@pytest.mark.parametrize("keep_bytes", [0, 7, 100], ids=["empty", "half a header", "no tensors"])
def test_damaged_snapshot_falls_back(tmp_path: Path, keep_bytes: int) -> None:
    write_snapshot(tmp_path, 4, "job", state(4))
    newest = write_snapshot(tmp_path, 8, "job", state(8))
    newest.write_bytes(newest.read_bytes()[:keep_bytes])
    read = read_snapshot(tmp_path, "job")
    assert read is not None
    assert int(read["position"]) == 4


@pytest.mark.parametrize("position", [0.02, 0.5, 0.999], ids=["header", "middle", "last tensor"])
def test_one_flipped_bit_falls_back_with_one_line(tmp_path: Path, position: float) -> None:
    write_snapshot(tmp_path, 4, "job", state(4))
    newest = write_snapshot(tmp_path, 8, "job", state(8))
    data = bytearray(newest.read_bytes())
    data[int(position * len(data))] ^= 1
    newest.write_bytes(data)
    warnings: list[str] = []
    read = read_snapshot(tmp_path, "job", warn=warnings.append)
    assert read is not None
    assert int(read["position"]) == 4
    assert warnings == ["snapshot block-000008 is damaged (its digest does not match); trying the one before"]


@pytest.mark.parametrize(("reach", "expected"), [(9, 8), (8, 8), (7, 4), (3, None)])
def test_a_snapshot_beyond_the_whole_blocks_is_passed_over(tmp_path: Path, reach: int, expected: int | None) -> None:
    for block in (4, 8):
        write_snapshot(tmp_path, block, "job", state(block))
    warnings: list[str] = []
    read = read_snapshot(tmp_path, "job", reach, warnings.append)
    assert (None if read is None else int(read["position"])) == expected
    assert len(warnings) == (expected != 8)


def test_newer_snapshots_and_half_written_ones_go(tmp_path: Path) -> None:
    for block in (4, 8):
        write_snapshot(tmp_path, block, "job", state(block))
    drop_newer_snapshots(tmp_path, 4)
    (tmp_path / ".block-000008-00.safetensors.12345678.tmp").touch()
    kept = [next(tmp_path.glob("*.safetensors")), write_snapshot(tmp_path, 8, "job", state(8))]
    assert sorted(tmp_path.iterdir()) == kept


def test_a_snapshot_of_the_format_without_digest_is_refused(tmp_path: Path) -> None:
    save_file(state(4), tmp_path / "block-000004.safetensors", metadata={"version": "1", "job": "job"})
    with pytest.raises(InputError, match="version"):
        read_snapshot(tmp_path, "job")


def test_a_file_that_names_no_job_is_refused(tmp_path: Path) -> None:
    save_file(state(4), tmp_path / "block-000004.safetensors")
    with pytest.raises(InputError, match=r"another job or version \(job \?"):
        read_snapshot(tmp_path, "job")


def test_snapshot_of_another_job_is_refused(tmp_path: Path) -> None:
    write_snapshot(tmp_path, 4, "one job", state(4))
    with pytest.raises(InputError, match="another job"):
        read_snapshot(tmp_path, "another")


def test_no_snapshot_is_none(tmp_path: Path) -> None:
    assert read_snapshot(tmp_path / "absent", "job") is None
