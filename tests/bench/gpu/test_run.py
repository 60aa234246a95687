"""The GPU measurements on a few thousand weights: the script runs through, its report says what was found."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from liveavatar.bench.gpu.__main__ import main
from liveavatar.bench.gpu.build import BF16, DRY, FP8, FP8_ALL, random_dit
from liveavatar.bench.gpu.memory import predicted
from liveavatar.bench.gpu.ranks import RanksPlan
from liveavatar.bench.gpu.report import to_markdown
from liveavatar.bench.gpu.run import GpuOptions, run
from liveavatar.bench.gpu.speed import kind_of
from liveavatar.bench.gpu.tpp import run_group
from liveavatar.config import LIVE_AVATAR_14B
from liveavatar.errors import InputError
from liveavatar.fast.dit import FastDiT, accelerate
from liveavatar.fast.weights import LayerWeights, Linear, Resident
from liveavatar.hardware import gpu_of


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


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [2, pytest.param(3, marks=pytest.mark.nightly)])
def test_dry_run_of_ranks_that_share_a_gpu(gpus: int, tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path), "--dry_run", "--only", "tpp", "--shared", "--gpus", str(gpus)]) == 0
    results = json.loads((tmp_path / "bench_gpu.json").read_text())
    assert [row["passed"] for row in results["verify"]] == [True, True]
    assert results["tpp"] == []  # no speed
    rows = results["tpp_capped"]
    assert [(row["split"], row["fits"], len(row["predicted_gib"])) for row in rows] == [
        ("whole steps", True, gpus),
        ("layers", True, gpus),
    ]
    assert f"passed: {gpus} cards with 22.15 GiB, layers: 64*64 fits" in (tmp_path / "bench_gpu.md").read_text()


@pytest.mark.parametrize("fp8", [False, True], ids=["fp32", "fp8"])
def test_layers_that_are_alike_are_packed_apart(fp8: bool) -> None:
    """Weights that are made in little memory take as much as others in the end."""
    cpu = torch.device("cpu")
    apart, alike = (accelerate(random_dit(DRY.dit, cpu, torch.float32, a), fp8=fp8) for a in (False, True))
    assert num_bytes(alike) == num_bytes(apart) > 0


def num_bytes(dit: FastDiT) -> int:
    """Of all memory that a transformer's weights lie in."""
    found: dict[int, int] = {}
    waiting: list[Any] = [vars(dit)]
    while waiting:
        match waiting.pop():
            case torch.Tensor() as t:
                found[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            case torch.nn.Module() as module:
                waiting.extend(module.parameters())
            case dict() as named:
                waiting.extend(named.values())
            case list() | tuple() as several:
                waiting.extend(several)
            case Resident() as layers:
                waiting.extend(vars(layers).values())
            case LayerWeights() | Linear() as part:
                waiting.extend(getattr(part, f.name) for f in fields(part))
    return sum(found.values())


def test_a_rank_that_fails_ends_all(tmp_path: Path) -> None:
    told: list[str] = []
    plan = RanksPlan(config=DRY, world=2, size=(16, 16), blocks=1, checked=(), cpu=True)  # too small for its patches
    with pytest.raises(RuntimeError, match=r"^rank \d: \w+Error"):
        run_group(plan, lambda section, row: told.append(section))
    assert told == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_the_way_out_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path)]) == 2
    assert "liveavatar bench cpu" in capsys.readouterr().err


def test_only_ranks_share_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--dry_run", "--only", "speed", "--shared"]) == 2
    assert "--only tpp" in capsys.readouterr().err


@pytest.mark.parametrize("gpus", ["1", "9"])
def test_a_group_needs_gpus(gpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--dry_run"] if gpus == "1" else []
    assert main(["--out", str(tmp_path), "--only", "tpp", "--gpus", gpus, *asked]) == 2
    assert "GPU" in capsys.readouterr().err


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


def test_report_of_measurements() -> None:
    speed = {
        "mode": "fp8", "size": "704*384", "fps": 17.2, "block_p50_s": 0.69, "block_p99_s": 0.7, "p99_over_p50": 1.01,
        "step_s": 0.14, "decode_s": 0.12, "build_s": 5.0, "cold_first_frame_s": 30.0, "open_s": 0.9,
        "first_frame_s": 1.8, "peak_gib": 60.0,
    }  # fmt: skip
    off = {"mode": "fp8", "size": "704*384", "allocated_gib": 60.0, "predicted_gib": 66.0, "off": 0.1}
    page = to_markdown(
        {
            "model": "m",
            "machine": {"gpu": "NVIDIA H200", "date": "2026-01-01", "torch": "2", "cuda": "13", "cudnn": 9,
                        "triton": "3", "kernels": "on", "dry_run": False, "seconds": 10.0},
            "speed": [speed],
            "memory": [off],
            "verify": [{"name": "fast fp8", "distance": 0.5, "limit": 0.1, "passed": False}],
            "errors": {"caps": "OutOfMemoryError"},
        }
    )  # fmt: skip
    assert "MISSED: fp8: 17.2 frames/s, wanted 18" in page
    assert "passed: fp8: first frame warm 1.80 s" in page
    assert "MISSED: planner, fp8 at 704*384: +10.0%" in page
    assert "MISSED: fast fp8" in page
    assert "caps: OutOfMemoryError" in page
    assert "10.5 fp8 + compile" in page


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("nvjet_tst_192x192_64x4_2x1_v_bz_coopA_TNN", "linears"),
        ("cutlass::device_kernel<GemmUniversal>", "linears"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16", "attention"),
        ("_rms_rope_write", "fused kernels"),
        ("_write_values8", "fused kernels"),
        ("_attend8", "attention"),
        ("_enlarge", "fused kernels"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc", "decoder convolutions"),
        ("void at::native::vectorized_elementwise_kernel", "other elementwise"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
    ],
)
def test_kernels_are_sorted_by_name(kernel: str, kind: str) -> None:
    assert kind_of(kernel) == kind


def test_prediction_falls_with_precision() -> None:
    gpu = gpu_of("H200")
    totals = [predicted(LIVE_AVATAR_14B, mode, (704, 384), gpu)["total"] for mode in (BF16, FP8, FP8_ALL)]
    assert totals == sorted(totals, reverse=True)
    assert totals[2] < 48e9 / 2**30
