"""The GPU measurements on a few thousand weights: the script runs through, its report says what was found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from liveavatar.bench.gpu.__main__ import main
from liveavatar.bench.gpu.ranks import TRYING, RanksPlan
from liveavatar.bench.gpu.run import GpuOptions, run
from liveavatar.errors import InputError


def test_only_ranks_share_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--dry_run", "--only", "speed", "--shared"]) == 2
    assert "--only tpp" in capsys.readouterr().err


@pytest.mark.parametrize("gpus", ["1", "9"])
def test_a_group_needs_gpus(gpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--dry_run"] if gpus == "1" else []
    assert main(["--out", str(tmp_path), "--only", "tpp", "--gpus", gpus, *asked]) == 2
    assert "GPU" in capsys.readouterr().err


@pytest.mark.nightly  # sections alone are daily in test_steps
def test_one_mode_alone(tmp_path: Path) -> None:
    asked = ["--out", str(tmp_path), "--dry_run", "--only", "speed", "--modes", "bf16 + fp8 rings"]
    assert main(asked) == 0
    rows = json.loads((tmp_path / "bench_gpu.json").read_text())["speed"]
    assert [row["mode"] for row in rows] == ["bf16 + fp8 rings"]


def test_unknown_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--dry_run", "--only", "speed", "--modes", "fp4"]) == 2
    assert "modes are fp8, bf16" in capsys.readouterr().err


def test_unknown_section(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fans"):
        run(GpuOptions(out=tmp_path, only=("fans",), dry_run=True))


def test_a_size_that_ends_the_ranks_takes_no_other_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[RanksPlan] = []

    def run_group(plan: RanksPlan, tell: Callable[[str, dict[str, Any]], None]) -> None:
        plans.append(plan)
        for size in ("64*64", "128*64", "128*128"):
            if (size, "layers") in plan.tried:
                continue
            row = {"size": size, "split": "layers", "gpus": 2, "cap_gib": 22.15}
            tell(TRYING, row)
            if size == "128*64":
                raise RuntimeError("rank 1 was lost")
            tell("tpp_capped", row | {"fits": True, "error": None})

    monkeypatch.setattr("liveavatar.bench.gpu.run.run_group", run_group)
    results = run(GpuOptions(out=tmp_path, only=("tpp",), gpus=2, dry_run=True))
    assert not results["errors"]
    assert [(row["size"], row["fits"], row["error"]) for row in results["tpp_capped"]] == [
        ("64*64", True, None),
        ("128*64", False, "rank 1 was lost"),
        ("128*128", True, None),
    ]
    assert [bool(plan.checked) for plan in plans] == [True, False], "what was measured before is not measured again"


def test_ranks_that_fail_before_the_sizes_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_group(plan: RanksPlan, tell: Callable[[str, dict[str, Any]], None]) -> None:
        raise RuntimeError("rank 1 was lost")

    monkeypatch.setattr("liveavatar.bench.gpu.run.run_group", run_group)
    results = run(GpuOptions(out=tmp_path, only=("tpp",), gpus=2, dry_run=True))
    assert list(results["errors"].values()) == ["RuntimeError: rank 1 was lost"]
