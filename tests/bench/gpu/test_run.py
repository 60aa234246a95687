"""The GPU measurements on a few thousand weights: the script runs through, its report says what was found."""

import json
from pathlib import Path

import pytest

from liveavatar.bench.gpu.__main__ import main
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
