"""Steps spread over processes on the CPU; how the layers are balanced from measured times."""

import json
from pathlib import Path

import pytest

from liveavatar.bench.gpu.__main__ import main
from liveavatar.bench.gpu.build import DRY
from liveavatar.bench.gpu.ranks import RanksPlan
from liveavatar.bench.gpu.tpp import run_group, small_config
from liveavatar.config import LIVE_AVATAR_14B


@pytest.mark.nightly
def test_dry_run_over_two_processes(tmp_path: Path) -> None:
    asked = ["--dry_run", "--only", "tpp", "--gpus", "2", "--single_fps", "20"]
    assert main(["--out", str(tmp_path), *asked]) == 0
    results = json.loads((tmp_path / "bench_gpu.json").read_text())
    assert [row["passed"] for row in results["verify"]] == [True, True, True]
    whole, *spread = results["tpp"]
    assert (whole["split"], spread[0]["split"]) == ("whole steps", "layers by the table")
    assert (spread[-1]["split"], [rank["layers"] for rank in spread[-1]["ranks"]]) == ("circular", [8, 8])
    assert len({row["latents"] for row in results["tpp"]}) == 1
    assert all(row["bound_fps"] > 0 for row in results["tpp"])
    assert [rank["layers"] for rank in whole["ranks"]] == [8, 8]
    assert spread[0]["efficiency"] == pytest.approx(spread[0]["fps"] / 40)
    assert results["tpp_capped"][0]["fits"]
    page = (tmp_path / "bench_gpu.md").read_text()
    assert "What each rank does with a block, fp8, layers by the table" in page


@pytest.mark.nightly
def test_a_rank_that_fails_ends_all(tmp_path: Path) -> None:
    told: list[str] = []
    plan = RanksPlan(config=DRY, world=2, size=(16, 16), blocks=1, checked=(), cpu=True)  # too small for its patches
    with pytest.raises(RuntimeError, match=r"^rank \d: \w+Error"):
        run_group(plan, lambda section, row: told.append(section))
    assert told == []


def test_small_config_keeps_what_a_split_depends_on() -> None:
    small = small_config(LIVE_AVATAR_14B)
    assert small.dit.num_layers == 4
    assert small.dit.dim // small.dit.num_heads == LIVE_AVATAR_14B.dit.dim // LIVE_AVATAR_14B.dit.num_heads == 128
    for name in ("window_latents", "ref_distance", "motion_latents", "in_dim"):
        assert getattr(small.dit, name) == getattr(LIVE_AVATAR_14B.dit, name), name
