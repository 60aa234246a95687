"""Speed model: predicted for GPUs, measured for the CPU."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from liveavatar import paths
from liveavatar.checkpoints.directory import read_config, resolve_model_dir
from liveavatar.config import LIVE_AVATAR_14B, TINY
from liveavatar.hardware import HOPPER, gpu_of
from liveavatar.paths import REPO_ROOT
from liveavatar.planning.costs import dit_costs, vae_costs
from liveavatar.planning.plan import plan
from liveavatar.planning.speed import BOTH_WAYS, Speeds, cpu_speeds, decode_layers, gpu_speeds
from tests.planning.requests import machine, request_14b, small_request


def test_cpu_pace_is_measured_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    here = machine("cpu", host_gb=16)
    request = small_request(num_frames=250, sample_steps=2)
    first = plan(TINY, request, here)
    assert first.fits
    assert first.fps > 0
    assert len(list(tmp_path.glob("speed/*.json"))) == 1
    assert plan(TINY, request, here).fps == first.fps


def test_more_gpus_are_faster_and_more_steps_slower() -> None:
    def fps(gpus: str, steps: int, **options: object) -> float:
        return plan(LIVE_AVATAR_14B, request_14b((704, 384), sample_steps=steps, **options), machine(gpus)).fps

    spread = [fps(f"{n}xH200", 4, placement="tpp") for n in (2, 4, 5)]
    assert fps("1xH200", 4) < spread[0] < spread[1] < spread[2]
    assert fps("1xH200", 6) < fps("1xH200", 4) < fps("1xH200", 3)
    assert fps("1xH200", 4) < fps("1xH200", 4, fp8=True)
    assert fps("1xH200", 4, fp8=True, offload=True) < fps("1xH200", 4, fp8=True)
    assert fps("4xH200", 4, placement="replicas") == pytest.approx(4 * fps("1xH200", 4))


def test_a_damaged_measurement_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    fast = Speeds(step=1.0, decode=2.0, start=3.0, first=4.0, overlap=False)
    monkeypatch.setattr("liveavatar.planning.speed.measure_cpu", lambda *_: fast)
    assert cpu_speeds(TINY, 384, 256, 2) == fast
    slow = replace(fast, step=9.0)
    monkeypatch.setattr("liveavatar.planning.speed.measure_cpu", lambda *_: slow)
    assert cpu_speeds(TINY, 384, 256, 2) == fast, "the stored one counts"
    assert cpu_speeds(TINY, 384, 256, 3) == slow, "another job is measured"
    stored = sorted(paths.speeds().glob("*.json"), key=lambda path: json.loads(path.read_text())["speeds"]["step"])
    stored[0].write_text("{")
    assert cpu_speeds(TINY, 384, 256, 2) == slow


def times(dtype: str = "bf16", **options: Any) -> Speeds:
    config = LIVE_AVATAR_14B
    dit, vae = dit_costs(config.dit, 704, 384, 8, dtype), vae_costs(config.vae, config.dit.motion_latents, 704, 384)
    options = {"rates": HOPPER, "num_layers": config.dit.num_layers, "fp8": False, "offload": False} | options
    return gpu_speeds(dit, vae, **options)


@pytest.mark.parametrize(
    ("slower", "faster"),
    [
        pytest.param({}, {"fp8": True}, id="fp8 linears"),
        pytest.param({"rates": HOPPER.without_flash3()}, {}, id="FlashAttention-3"),
        pytest.param({"rates": HOPPER.without_flash3()}, {"dtype": "int8"}, id="8-bit attention"),
        pytest.param({"dtype": "int8"}, {"dtype": "e4m3"}, id="attention in e4m3"),
        pytest.param({"dtype": "fp8"}, {}, id="rings that are converted cost time"),
        pytest.param({"offload": True}, {}, id="weights from the host"),
        pytest.param({"offload": True}, {"fp8": True, "offload": True}, id="fp8 halves the transfer"),
        pytest.param({}, {"rates": replace(HOPPER, bandwidth=3.6)}, id="memory bandwidth"),
    ],
)
def test_a_step_on_a_gpu(slower: dict[str, Any], faster: dict[str, Any]) -> None:
    assert times(**faster).step < times(**slower).step
    assert times(**faster).decode == times(**slower).decode


@pytest.mark.parametrize(("size", "measured"), [((256, 384), 1426), ((1024, 768), 676)])
def test_the_embedded_model_on_a_gpu_is_predicted(size: tuple[int, int], measured: float) -> None:
    """Measured on an H200: data/benchmarks/gpu_h200_mini_2026-11-30.md."""
    request = small_request(width=size[0], height=size[1], sample_steps=4)
    predicted = plan(read_config(resolve_model_dir("mini")), request, machine("1xH200")).fps
    assert predicted == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("dtype", ["auto", "bf16", "fp8", "int8", "e4m3"])
def test_a_decode_in_layers(dtype: str) -> None:
    speeds = times("bf16" if dtype == "auto" else dtype, fp8=True)
    layers = decode_layers(LIVE_AVATAR_14B, HOPPER, True, 704, 384, dtype)
    assert layers * speeds.step / LIVE_AVATAR_14B.dit.num_layers == pytest.approx(speeds.decode)


def test_rings_that_wait_cost_what_the_link_takes() -> None:
    dit = dit_costs(LIVE_AVATAR_14B.dit, 704, 384, 8, "fp8")
    slow = replace(HOPPER, host_link=0.01)  # the link decides
    here, there = (times("fp8", rates=slow, fp8=True, offload=True, rings_on_host=wait) for wait in (False, True))
    assert here.step == pytest.approx(dit.step_weights / 0.01e12, rel=0.01)
    brought, written = 0.75 * dit.ring_bytes, 0.25 * dit.ring_bytes
    # What goes back takes no time of its own, but what arrives beside it takes longer.
    assert there.step - here.step == pytest.approx((brought + (1 / 0.87 - 1) * written) / 0.01e12, rel=0.01)
    assert there.start == here.start, "no ring is filled yet"
    assert there.block(4) == 4 * there.step + there.decode


REPORT = json.loads((REPO_ROOT / "data" / "benchmarks" / "gpu_h200_offload_2026-11-30.json").read_text())
STREAMS = [row for row in REPORT["offload"] if row["fits"]]


def test_the_link_to_the_host_of_an_h200_is_the_measured_one() -> None:
    link = REPORT["link"][0]
    assert gpu_of("H200").rates.host_link == pytest.approx(link["to_gpu_gb_s"] / 1000, rel=0.01)
    assert pytest.approx(link["each_of_both_gb_s"] / link["to_gpu_gb_s"], rel=0.01) == BOTH_WAYS


@pytest.mark.parametrize("row", [pytest.param(row, id=f"{row['mode']} {row['cap_gib']}") for row in STREAMS])
def test_the_pace_of_an_offloaded_stream_is_as_measured(row: dict[str, Any]) -> None:
    """By the median block: what the report calls fps counts a last block beside whose decoding nothing is denoised."""
    dtype = {"fp8 + fp8 rings": "fp8", "fp8": "bf16", "fp8 + 8-bit attention": "int8"}[row["mode"]]
    speeds = times(
        dtype,
        rates=gpu_of("H200").rates.without_flash3(),
        fp8=True,
        offload=True,
        rings_on_host=row["rings"] == "host",
    )
    assert speeds.step == pytest.approx(row["step_s"], rel=0.04)
    assert speeds.block(4) == pytest.approx(row["block_p50_s"], rel=0.04)
