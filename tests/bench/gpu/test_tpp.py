"""Steps spread over processes on the CPU; how the layers are balanced from measured times."""

import json
from pathlib import Path
from typing import Any

import pytest

from liveavatar.bench.gpu.__main__ import main
from liveavatar.bench.gpu.build import DRY
from liveavatar.bench.gpu.ranks import RanksPlan
from liveavatar.bench.gpu.tpp import CLOSE, balanced_layers, run_group, small_config, uneven
from liveavatar.config import LIVE_AVATAR_14B


@pytest.mark.nightly
def test_dry_run_over_two_processes(tmp_path: Path) -> None:
    asked = ["--dry_run", "--only", "tpp", "--gpus", "2", "--single_fps", "20"]
    assert main(["--out", str(tmp_path), *asked]) == 0
    results = json.loads((tmp_path / "bench_gpu.json").read_text())
    assert [row["passed"] for row in results["verify"]] == [True, True]
    whole, *spread = results["tpp"]
    assert (whole["split"], spread[0]["split"]) == ("whole steps", "layers")
    assert [rank["layers"] for rank in whole["ranks"]] == [8, 8]
    assert spread[0]["efficiency"] == pytest.approx(spread[0]["fps"] / 40)
    assert results["tpp_capped"][0]["fits"]
    page = (tmp_path / "bench_gpu.md").read_text()
    assert "What each rank does with a block, fp8, layers" in page


@pytest.mark.nightly
def test_a_rank_that_fails_ends_all(tmp_path: Path) -> None:
    told: list[str] = []
    plan = RanksPlan(config=DRY, world=2, size=(16, 16), blocks=1, checked=(), cpu=True)  # too small for its patches
    with pytest.raises(RuntimeError, match=r"^rank \d: \w+Error"):
        run_group(plan, lambda section, row: told.append(section))
    assert told == []


def rank(busy_s: float, layers: int, decode_s: float | None = None) -> dict[str, Any]:
    return {"busy_s": busy_s, "layers": layers, "decode_s": decode_s}


@pytest.mark.parametrize(
    ("last", "layers"),
    [
        pytest.param(rank(0.3, 20, 0.1), 10, id="the last rank's layers are slowed by decoding"),
        pytest.param(rank(0.2, 20, 0.5), 30, id="decoding outlasts the layers"),
        pytest.param(rank(0.1, 20, None), 0, id="never less than none"),
    ],
)
def test_decoding_counts_as_so_many_layers(last: dict[str, Any], layers: float) -> None:
    others = [rank(0.1, 10), rank(0.5, 50)]  # a hundredth of a second a layer
    assert balanced_layers([*others, last]) == pytest.approx(layers)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("times", "expected"), [(0.9, False), (1.1, True)])
def test_ranks_are_uneven_when_the_last_one_is_off_the_mean(sign: int, times: float, expected: bool) -> None:
    others = [rank(0.4, 10), rank(0.6, 10)]
    last = 0.5 + sign * times * CLOSE * 2.0
    assert uneven([*others, rank(last, 10, 0.1)], 2.0) == expected
    assert uneven([*others, rank(0.1, 10, last)], 2.0) == expected, "decoding is the longer of the two"


def test_small_config_keeps_what_a_split_depends_on() -> None:
    small = small_config(LIVE_AVATAR_14B)
    assert small.dit.num_layers == 4
    assert small.dit.dim // small.dit.num_heads == LIVE_AVATAR_14B.dit.dim // LIVE_AVATAR_14B.dit.num_heads == 128
    for name in ("window_latents", "ref_distance", "motion_latents", "in_dim"):
        assert getattr(small.dit, name) == getattr(LIVE_AVATAR_14B.dit, name), name
