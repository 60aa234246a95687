"""The page of measurements: tables of what is there, and a verdict on every goal."""

from typing import Any

import pytest

from liveavatar.bench.gpu.report import to_markdown

MACHINE = {
    "gpu": "NVIDIA H200", "date": "2026-01-01", "torch": "2", "cuda": "13", "cudnn": 9, "triton": "3", "kernels": "on",
    "dry_run": False, "seconds": 10.0,
}  # fmt: skip


def page(**sections: Any) -> str:
    return to_markdown({"model": "m", "machine": MACHINE, **sections})


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


def test_attention_is_a_table_with_its_errors() -> None:
    row = {"keys": "noise", "backend": "e4m3", "ms": 1.1234, "tflops": 884.2, "error": 0.0535, "largest": 0.0554}
    assert "| noise | e4m3 | 1.123 | 884.2 | 0.0535 | 0.0554 |" in page(attention=[row])
    assert "Errors are to fp32" in page(attention=[row])
    assert "Errors" not in page()


def test_nothing_measured_is_said() -> None:
    assert "Nothing was measured that has a goal." in page()
    assert "##" not in page().replace("## Verdict", "")


def test_columns_without_a_number_are_left_out() -> None:
    rows = [{"mode": "fp8", "size": "64*64", "cap_gb": 24.0, "fits": False, "fps": None, "error": None}]
    assert "| mode | size | cap_gb | fits |\n|---|---|---|---|\n| fp8 | 64*64 | 24 | NO |" in page(capped=rows)


@pytest.mark.parametrize(
    ("fps", "first", "gpus", "lines"),
    [
        pytest.param(65.0, 1.2, 4, ("passed: 4 GPUs, fp8: 65.0", "passed: 4 GPUs, fp8: first"), id="just reached"),
        pytest.param(64.9, 1.21, 4, ("MISSED: 4 GPUs, fp8: 64.9", "MISSED: 4 GPUs, fp8: first"), id="just missed"),
        pytest.param(99.0, 1.0, 3, (), id="fewer GPUs have no goal"),
    ],
)
def test_goals_of_a_group(fps: float, first: float, gpus: int, lines: tuple[str, ...]) -> None:
    row = {"mode": "fp8", "gpus": gpus, "size": "704*384", "split": "layers", "fps": fps, "first_frame_s": first}
    text = page(tpp=[row | {"ranks": []}])
    assert all(line in text for line in lines)
    assert text.count("wanted") == len(lines)


def test_the_largest_size_that_fits_is_by_area() -> None:
    base = {"gpus": 2, "split": "layers", "cap_gib": 22.15}
    sizes = {"704*384": False, "576*320": True, "1024*128": True, "448*320": True}
    text = page(tpp_capped=[base | {"size": size, "fits": fits} for size, fits in sizes.items()])
    assert "passed: 2 cards with 22.15 GiB, layers: 576*320 fits" in text
    none = page(tpp_capped=[base | {"size": "704*384", "fits": False}])
    assert "MISSED: 2 cards with 22.15 GiB, layers: no size fits" in none


def test_the_best_mode_of_a_precision_counts() -> None:
    row = {"size": "704*384", "first_frame_s": 1, "build_s": 1, "cold_first_frame_s": 1, "p99_over_p50": 1}
    rows = [row | {"mode": "fp8", "fps": 17.0}, row | {"mode": "fp8 + fp8 rings", "fps": 18.0}]
    assert "passed: fp8 + fp8 rings: 18.0 frames/s, wanted 18" in page(speed=rows)
    assert "MISSED" not in page(speed=rows)


def test_one_small_card_is_judged_by_room_bits_and_memory() -> None:
    row = {
        "mode": "fp8", "rings": "host", "size": "704*384", "cap_gib": 14.15, "fits": True, "fps": 5.678,
        "allocated_gib": 10.0, "predicted_gib": 10.3, "off": 0.03, "same_latents": True,
    }  # fmt: skip
    other = row | {"rings": "GPU", "cap_gib": None, "off": 0.05, "same_latents": False}
    found = page(offload=[row, other, row | {"fits": False, "cap_gib": 22.15}])
    where = "fp8 at 704*384, rings"
    for line in (
        f"passed: {where} in host memory, 14.15 GiB: fits, 5.68 frames/s",
        f"passed: planner, {where} in host memory, 14.15 GiB: +3.0%, wanted within 4 %",
        f"MISSED: {where} on the GPU: the same latents",
        f"MISSED: planner, {where} on the GPU: +5.0%, wanted within 4 %",
        f"MISSED: {where} in host memory, 22.15 GiB: fits",
    ):
        assert f"- {line}\n" in found
