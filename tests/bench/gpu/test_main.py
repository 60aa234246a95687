"""The command line: its options, its exit status, what it prints."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from liveavatar.bench.gpu.__main__ import main
from liveavatar.bench.gpu.run import SECTIONS, GpuOptions


@pytest.mark.nightly
def test_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--dry_run", "--only", "caps"]) == 0
    results = json.loads((tmp_path / "bench_gpu.json").read_text())
    assert [row["fits"] for row in results["capped"]] == [True, True]
    assert results["machine"]["dry_run"]
    assert "A dry run" in capsys.readouterr().out
    assert "Under a cap" in (tmp_path / "bench_gpu.md").read_text()


def test_a_failed_check_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"name": "graphs", "distance": 0.4, "limit": 0.1, "passed": False}
    for passed in (True, False):
        monkeypatch.setattr("liveavatar.bench.gpu.run.verify", lambda *_, p=passed: [{**row, "passed": p}])
        asked = ["--out", str(tmp_path), "--dry_run", "--only", "verify"]
        assert main(asked) == int(not passed)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_the_way_out_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path)]) == 2
    assert "liveavatar bench cpu" in capsys.readouterr().err


def test_options_as_they_are_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[GpuOptions] = []

    def note(options: GpuOptions) -> dict[str, Any]:
        seen.append(options)
        return {"errors": {"speed": "RuntimeError"}}

    monkeypatch.setattr("liveavatar.bench.gpu.__main__.run", note)
    monkeypatch.setattr("liveavatar.bench.gpu.__main__.to_markdown", lambda _: "")
    typed = ["--only", "tpp,caps", "--modes", "fp8, bf16,", "--sizes", "384*256,512*320", "--gpus", "2"]
    assert main(["--out", str(tmp_path), *typed, "--single_fps", "17.5"]) == 1, "something could not be measured"
    main(["--out", str(tmp_path)])
    wanted = {"only": ("tpp", "caps"), "modes": ("fp8", "bf16"), "sizes": ((384, 256), (512, 320)), "gpus": 2}
    assert {name: getattr(seen[0], name) for name in wanted} == wanted
    assert seen[0].single_fps == 17.5
    assert seen[1] == GpuOptions(out=tmp_path, only=SECTIONS)
