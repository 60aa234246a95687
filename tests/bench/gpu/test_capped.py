"""What fits on ranks with the memory of a small card, on the CPU."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from liveavatar.bench.gpu import capped
from liveavatar.bench.gpu.__main__ import main
from liveavatar.bench.gpu.build import DRY
from liveavatar.bench.gpu.capped import CAP_GIB, Capped
from liveavatar.bench.gpu.ranks import RanksPlan
from liveavatar.distributed.group import Group
from liveavatar.fast.backend import FastBackend

TINY_DRY = replace(DRY, dit=replace(DRY.dit, num_layers=2, audio_inject_layers=(0,)))


def alone(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Rows of a group of one rank."""
    monkeypatch.setattr(capped, "everyone", lambda _, value: [value])
    monkeypatch.setattr(capped, "WARM_BLOCKS", 2)
    monkeypatch.setattr(capped, "release", lambda: None)
    plan = RanksPlan(config=TINY_DRY, world=1, size=(64, 64), blocks=1, capped=((64, 64),), shared=True, cpu=True)
    rows: list[dict[str, Any]] = []
    Capped(Group(0, 1, torch.device("cpu"), 1.0, True), plan, lambda _, row: rows.append(row), None).run()
    return rows


@pytest.mark.nightly
def test_a_size_that_fits_is_streamed_in_both_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = alone(monkeypatch)
    assert [(r["split"], r["fits"], r["blocks"]) for r in rows] == [
        ("whole steps", True, 2),
        ("layers", True, 2),
    ]
    assert {r["size"] for r in rows} == {"64*64"}
    assert {r["cap_gib"] for r in rows} == {CAP_GIB}


def test_a_size_without_room_says_which_rank_and_is_not_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has 1 GiB\nand more")

    monkeypatch.setattr(FastBackend, "still_latents", full)
    for row in alone(monkeypatch):
        assert not row["fits"]
        assert row["error"] == "rank 0: CUDA out of memory. Tried to allocate 2 GiB."
        assert "blocks" not in row


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("gpus", [2, 3])
def test_dry_run_of_ranks_that_share_a_gpu(gpus: int, tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path), "--dry_run", "--only", "tpp", "--shared", "--gpus", str(gpus)]) == 0
    results = json.loads((tmp_path / "bench_gpu.json").read_text())
    assert [row["passed"] for row in results["verify"]] == [True, True, True]
    assert results["tpp"] == []  # no speed
    rows = results["tpp_capped"]
    assert [(row["split"], row["fits"], len(row["predicted_gib"])) for row in rows] == [
        ("whole steps", True, gpus),
        ("layers", True, gpus),
        ("circular", True, gpus),
    ]
    assert f"passed: {gpus} cards with 22.15 GiB, circular: 64*64 fits" in (tmp_path / "bench_gpu.md").read_text()


@pytest.mark.slow
@pytest.mark.nightly
def test_one_way_of_dividing_may_be_tried_alone(tmp_path: Path) -> None:
    asked = ["--dry_run", "--only", "tpp", "--shared", "--gpus", "4", "--splits", "circular", "--sizes", "128*64,64*64"]
    assert main(["--out", str(tmp_path), *asked]) == 0
    rows = json.loads((tmp_path / "bench_gpu.json").read_text())["tpp_capped"]
    assert [(row["size"], row["split"], row["fits"]) for row in rows] == [
        ("128*64", "circular", True),
        ("64*64", "circular", True),
    ]
    assert all(len(row["parts_gib"]) == 4 for row in rows)
