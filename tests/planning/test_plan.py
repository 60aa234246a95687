"""Plans: jobs that people ask about, refusals, who works and who idles, and speeds against the reports."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from liveavatar.bench.gpu.build import FP8_PYTORCH
from liveavatar.bench.gpu.run import SPEED_MODES
from liveavatar.config import LIVE_AVATAR_14B, MINI, ModelConfig
from liveavatar.engine.placement import circulate
from liveavatar.errors import CapacityError, InputError
from liveavatar.hardware import Machine, detect_machine, parse_gpus
from liveavatar.paths import REPO_ROOT
from liveavatar.planning.costs import vae_costs
from liveavatar.planning.memory import MemoryModel
from liveavatar.planning.plan import describe, plan, video_size
from liveavatar.planning.speed import TERA
from tests.planning.requests import machine, request_14b

# The recommendations and prohibitions of the article this project grew from, judged by the model of memory; it knew
# keys and values in bf16 only.
ARTICLE = [
    pytest.param((384, 256), 3, "4x24GB", True, True, id="384*256, 3 steps, 4x24: fits"),
    pytest.param((384, 256), 3, "4x24GB", False, True, id="the same in bf16: no card holds all weights, four do"),
    pytest.param((384, 256), 4, "4x24GB", True, True, id="384*256, 4 steps, 4x24: fits"),
    pytest.param((688, 368), 4, "4x24GB", True, True, id="688*368, 4 steps, 4x24: the sweet spot fits"),
    pytest.param((704, 384), 4, "4x24GB", True, True, id="704*384, 4 steps, 4x24: tight, as it says"),
    pytest.param((704, 384), 4, "4x24GB", False, False, id="the same in bf16: too much"),
    pytest.param((704, 384), 4, "2x24GB", True, False, id="704*384, 4 steps, 2x24: too much"),
    pytest.param((704, 384), 5, "4x24GB", True, False, id="704*384, 5 steps, 4x24: forbidden, rightly"),
    pytest.param((704, 384), 6, "4x24GB", True, False, id="704*384, 6 steps, 4x24: forbidden, rightly"),
    pytest.param((688, 368), 4, "4x48GB", True, True, id="688*368, 4 steps, 4x48: fits"),
    pytest.param((704, 384), 4, "4x48GB", True, True, id="704*384, 4 steps, 4x48: fits"),
    pytest.param((720, 400), 4, "5xH100", False, True, id="720*400, 4 steps on several: fits in bf16"),
    pytest.param((704, 384), 6, "4xH100", False, True, id="6 steps on several GPUs: forbidden there, fits here"),
    pytest.param((704, 384), 5, "4xH100", False, True, id="5 steps on several GPUs: fits here"),
    pytest.param((704, 384), 4, "1xH200", False, True, id="one H200 in bf16"),
    pytest.param((704, 384), 4, "1xH100", False, False, id="one H100 in bf16: four rings are too much"),
    pytest.param((704, 384), 4, "1xH100", True, True, id="one H100 in fp8"),
]


@pytest.mark.parametrize(("size", "steps", "gpus", "fp8", "fits"), ARTICLE)
def test_article(size: tuple[int, int], steps: int, gpus: str, fp8: bool, fits: bool) -> None:
    outcome = plan(
        LIVE_AVATAR_14B, request_14b(size, sample_steps=steps, fp8=fp8, kv_cache_dtype="bf16"), machine(gpus)
    )
    assert outcome.fits == fits
    over = [s for s in outcome.per_gpu_gb if s.total > s.usable]
    assert bool(over) != fits
    if not fits:
        assert "usable" in outcome.reasons[0]
        with pytest.raises(CapacityError, match="does not fit"):
            outcome.require()


def test_clips_of_64_frames_are_refused_with_a_length_that_works() -> None:
    outcome = plan(LIVE_AVATAR_14B, request_14b((688, 368), fp8=True).changed(infer_frames=64), machine("4x48GB"))
    assert not outcome.fits
    assert "multiple of 12" in outcome.reasons[0]
    assert outcome.nearest is not None
    assert outcome.nearest["infer_frames"] == 60


def test_a_card_too_full_for_graphs_is_said_to_be_slower() -> None:
    for gpus, slower in (("1x48GB", True), ("1xH100", False)):
        outcome = plan(LIVE_AVATAR_14B, request_14b((704, 384), fp8=True), machine(gpus))
        assert any("no room to record the decoder" in reason for reason in outcome.reasons) == slower
    assert not plan(LIVE_AVATAR_14B, request_14b((704, 384), fp8=True), machine("1xL40S")).fits


def test_no_gpu_points_to_the_mini() -> None:
    outcome = plan(LIVE_AVATAR_14B, request_14b((704, 384)), machine("cpu"))
    assert not outcome.fits
    assert outcome.nearest is not None
    assert outcome.nearest["model"] == "mini"


@pytest.mark.parametrize(
    ("gpus", "options", "gpu"),
    [
        pytest.param("1x4GB,1x80GB", {}, 1, id="the larger one comes second"),
        pytest.param("1x4GB,1x16GB,1x48GB,1x80GB", {}, 2, id="the first of two that hold it"),
        pytest.param("1x24GB,1x80GB", {"placement": "single"}, 1, id="asked for one"),
        pytest.param("1x24GB,1x80GB", {"placement": "replicas"}, None, id="asked for each"),
        pytest.param("2x16GB", {}, None, id="they are alike"),
        pytest.param("1x16GB,1x12GB", {}, None, id="none holds it"),
    ],
)
def test_a_gpu_that_holds_a_job_alone_is_named(gpus: str, options: dict[str, Any], gpu: int | None) -> None:
    outcome = plan(LIVE_AVATAR_14B, request_14b((512, 256), fp8=True, **options), machine(gpus))
    assert not outcome.fits
    assert outcome.refusal is not None
    words = f"alone holds it: set CUDA_VISIBLE_DEVICES={gpu}"
    assert (words in outcome.refusal, words in outcome.reasons[-1]) == (gpu is not None, gpu is not None)


def test_a_gpu_too_small_for_the_large_model_points_to_the_mini() -> None:
    nearest = plan(LIVE_AVATAR_14B, request_14b((384, 256), sample_steps=6), machine("1x6GB")).nearest
    assert nearest == {"model": "mini", "size": "384*256", "sample_steps": 4}


def test_what_one_gpu_does_not_hold_is_offered_on_several() -> None:
    outcome = plan(LIVE_AVATAR_14B, request_14b((704, 384), placement="single"), machine("4xA100-80GB"))
    assert not outcome.fits
    assert outcome.nearest is not None
    assert outcome.nearest["placement"] == "tpp"


@pytest.mark.parametrize(
    ("gpus", "options", "says"),
    [
        pytest.param("4xH200", {}, "the job is spread over 4", id="spread without being asked"),
        pytest.param("4x24GB", {"fp8": True}, "of 40 layers, and a block goes round all of them once a denoise step",
                     id="no card holds all layers"),
        pytest.param("8xH200", {"placement": "tpp", "width": 384, "height": 256, "fp8": True},
                     "7 of 8 GPUs work, GPU 7 stays idle: with more than 7 all would wait for the one that decodes",
                     id="more GPUs than a decoder keeps up with"),
        pytest.param("9xH200", {}, "GPU 8 stays idle: a job is spread over 8 at most", id="one more than eight"),
        pytest.param("4xH200,1x8GB", {}, "GPU 4 stays idle: with GPU 4 (8 GB) as well the job would be slower, or not "
                     "fit", id="one that would hold up the others"),
        pytest.param("2xH200", {"placement": "single"}, "GPU 1 stays idle: --placement tpp is reckoned at", id="asked"),
        pytest.param("4xB200", {"fp8": True, "sample_steps": 3, "kv_cache_dtype": "bf16", "width": 384, "height": 256},
                     "GPUs 1-3 stay idle: one is as fast as the video plays; --placement tpp", id="fast enough"),
        pytest.param("2xH200", {"offload": True}, "with --offload_model True a job runs on one GPU", id="offloaded"),
        pytest.param("1xH200", {"fp8": True, "offload": True}, "--offload_model True is not needed: without it a GPU "
                     "holds", id="offload without need"),
        pytest.param("4x32GB", {"fp8": True, "offload": True, "width": 640, "height": 384}, "is not needed: without it "
                     "the job is spread over 4 GPUs, the fullest with", id="offload instead of the other GPUs"),
    ],
)  # fmt: skip
def test_a_plan_says_who_works_and_why(gpus: str, options: dict[str, Any], says: str) -> None:
    outcome = plan(LIVE_AVATAR_14B, request_14b((704, 384), **options), machine(gpus))
    assert outcome.fits
    assert any(says in reason for reason in outcome.reasons), outcome.reasons


@pytest.mark.parametrize(
    ("gpus", "says"),
    [
        pytest.param("4xT4-16GB", ["T4-16GB is no kind"], id="another name"),
        pytest.param("4x16GB", ["16 GB is no kind"], id="memory alone"),
        pytest.param("1xH200", [], id="a known one"),
    ],
)
def test_an_assumed_kind_of_gpu_is_said(gpus: str, says: list[str]) -> None:
    outcome = plan(LIVE_AVATAR_14B, request_14b((704, 384), fp8=True), machine(gpus))
    end = " of GPU known here: speed and 8-bit unit are reckoned as a 4090's"
    assert [reason for reason in outcome.reasons if "reckoned as" in reason] == [begin + end for begin in says]


def test_needed_offload_is_not_called_needless() -> None:
    outcome = plan(LIVE_AVATAR_14B, request_14b((384, 256), fp8=True, offload=True), machine("1x24GB"))
    assert outcome.fits
    assert not [reason for reason in outcome.reasons if "not needed" in reason]


def test_a_refusal_names_the_reason_and_the_way_out() -> None:
    outcome = plan(LIVE_AVATAR_14B, request_14b((704, 384), fp8=True), machine("2x24GB"))
    assert outcome.nearest is not None
    assert outcome.refusal == f"the job does not fit: {outcome.reasons[0]}; try {describe(outcome.nearest)}"
    with pytest.raises(CapacityError) as refusal:
        outcome.require()
    assert str(refusal.value) == outcome.refusal
    assert plan(LIVE_AVATAR_14B, request_14b((704, 384), fp8=True), machine("4x24GB")).refusal is None


def test_host_and_disk_count() -> None:
    outcome = plan(LIVE_AVATAR_14B, request_14b((704, 384)), machine("1xH200", host_gb=8))
    assert not outcome.fits
    assert "host" in outcome.reasons[0]
    long = request_14b((704, 384)).changed(num_frames=3_000_000)
    outcome = plan(LIVE_AVATAR_14B, long, machine("1xH200", disk_gb=50))
    assert not outcome.fits
    assert "the disk of --out needs" in outcome.reasons[0]
    assert "snapshots" not in outcome.reasons[0]
    assert str(outcome.refusal).endswith("50.0 GB are free: free some space there, or give another folder")


def test_a_disk_too_small_for_snapshots_only_loses_them() -> None:
    outcome = plan(LIVE_AVATAR_14B, request_14b((704, 384)), machine("1xH200", disk_gb=50))
    assert outcome.fits
    assert "could not be resumed" in outcome.reasons[-1]


def test_snapshots_count_on_the_disk_of_the_home() -> None:
    request = request_14b((704, 384))
    small_out = replace(machine("1xH200", disk_gb=50), home_gb=1000.0)
    assert not [reason for reason in plan(LIVE_AVATAR_14B, request, small_out).reasons if "snapshots" in reason]
    small_home = replace(machine("1xH200", disk_gb=1000), home_gb=50.0)
    outcome = plan(LIVE_AVATAR_14B, request, small_home)
    assert outcome.fits
    assert "disk of LIVEAVATAR_HOME has (50 GB free)" in outcome.reasons[-1]


def test_an_unfinished_job_must_fit_the_disk_of_the_home() -> None:
    long = request_14b((704, 384)).changed(num_frames=3_000_000)
    outcome = plan(LIVE_AVATAR_14B, long, replace(machine("1xH200", disk_gb=100_000), home_gb=50.0))
    assert not outcome.fits
    assert "disk of LIVEAVATAR_HOME needs" in outcome.reasons[0]


def test_a_machine_that_is_only_named_is_not_judged_by_this_one() -> None:
    here = detect_machine(Path("out"), parse_gpus("8xH200"))
    assert plan(LIVE_AVATAR_14B, request_14b((704, 384)).changed(num_frames=3_000_000), here).fits
    assert detect_machine(Path("out"), ()).host_gb < math.inf


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"placement": "pipeline"}, "placement", id="unknown placement"),
        pytest.param({"sample_steps": 9}, "sample_steps", id="nine steps"),
        pytest.param({"width": 700}, "multiples of 64", id="odd width"),
        pytest.param({"num_frames": 0}, "no video", id="no frames"),
    ],
)
def test_meaningless_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(LIVE_AVATAR_14B, request_14b((704, 384)).changed(**changes), machine("1xH200"))


@pytest.mark.parametrize(
    ("config", "area", "picture", "size"),
    [
        pytest.param(MINI, None, None, (384, 256), id="mini, nothing known"),
        pytest.param(MINI, (384, 256), (900, 1200), (256, 384), id="mini, upright portrait"),
        pytest.param(LIVE_AVATAR_14B, (704, 384), (1024, 1024), (512, 512), id="square portrait"),
        pytest.param(LIVE_AVATAR_14B, (720, 400), None, (704, 384), id="720*400 is an area"),
    ],
)
def test_video_size(
    config: ModelConfig, area: tuple[int, int] | None, picture: tuple[int, int] | None, size: tuple[int, int]
) -> None:
    assert video_size(config, area, picture) == size


def test_plans_are_plain_json() -> None:
    outcome = plan(LIVE_AVATAR_14B, request_14b((704, 384), fp8=True), machine("4x24GB")).to_dict()
    parsed = json.loads(json.dumps(outcome))
    assert parsed.keys() >= {"fits", "placement", "per_gpu_gb", "fps", "ttff_s", "reasons", "nearest"}
    load = parsed["per_gpu_gb"][0]
    assert math.isclose(sum(load["breakdown"].values()), load["total"], abs_tol=0.01)


# First frames came later before the encoder had its channels innermost: the mean over the three modes that both runs of
# the H200's report have.
OLD_ENCODER_S = 0.18
MEASURED = [
    pytest.param("h200", "fp8", id="fp8 on an H200"),
    pytest.param("h200", "bf16", id="bf16 on an H200"),
    pytest.param("h200", "fp8 + fp8 rings", id="fp8 and fp8 rings on an H200"),
    pytest.param("h200", "fp8 + 8-bit attention", id="fp8 and 8-bit attention on an H200"),
    pytest.param("h200", "fp8 + e4m3 attention", id="fp8 and e4m3 attention on an H200"),
    pytest.param("h200", FP8_PYTORCH.name, id="fp8 without FlashAttention-3 on an H200"),
    pytest.param("h100", "fp8 + 8-bit attention", id="fp8 and 8-bit attention on an H100"),
    pytest.param("h100", "bf16 + fp8 rings", id="fp8 rings on an H100"),
    pytest.param("h100", "fp8 + fp8 rings", id="fp8 and fp8 rings on an H100"),
]


def measured_machine(gpus: str, report: dict[str, Any], flash3: bool, decode_s: float | None = None) -> Machine:
    """The machine of a report, with FlashAttention-3 if it was installed and asked for, and the decoder of its day."""
    known = machine(gpus)
    rates = known.gpus[0].rates
    if not (flash3 and report["machine"].get("fa3_fwd")):
        rates = rates.without_flash3()
    if decode_s is not None:
        config = LIVE_AVATAR_14B
        flop = vae_costs(config.vae, config.dit.motion_latents, 704, 384).decode_flop
        rates = replace(rates, conv=flop / TERA / decode_s)
    return replace(known, gpus=tuple(replace(gpu, rates=rates) for gpu in known.gpus))


PACE_ERROR = {"h200": 0.03, "h100": 0.07}


@pytest.mark.parametrize(("gpu", "mode"), MEASURED)
def test_what_is_planned_is_what_was_measured(gpu: str, mode: str) -> None:
    """Of the reports of `liveavatar bench gpu` in the repository, the newest of a GPU."""
    report = json.loads(sorted((REPO_ROOT / "data" / "benchmarks").glob(f"gpu_{gpu}_20*.json"))[-1].read_text())
    measured = next(row for row in report["speed"] if row["mode"] == mode)
    width, height = (int(side) for side in measured["size"].split("*"))
    options = SPEED_MODES[mode]
    request = request_14b((width, height), fp8=options.fp8, kv_cache_dtype=options.kv_cache_dtype)
    outcome = plan(LIVE_AVATAR_14B, request, measured_machine(f"1x{gpu}", report, options.flash3))
    assert outcome.per_gpu_gb[0].total == pytest.approx(measured["peak_gib"], rel=0.07)
    # By the median block: the reports' fps count a last one that is ready early.
    assert outcome.fps == pytest.approx(12 / measured["block_p50_s"], rel=PACE_ERROR[gpu])
    assert outcome.ttff_s + OLD_ENCODER_S == pytest.approx(measured["first_frame_s"], rel=0.12)


@pytest.mark.parametrize("steps", [3, 4])
@pytest.mark.parametrize("mode", ["fp8", "fp8 + 8-bit attention", "fp8 + e4m3 attention"])
def test_fewer_steps_are_as_fast_as_measured(mode: str, steps: int) -> None:
    report = json.loads(sorted((REPO_ROOT / "data" / "benchmarks").glob("gpu_h200_20*.json"))[-1].read_text())
    measured = next(row for row in report["steps"] if (row["mode"], row["sample_steps"]) == (mode, steps))
    options = SPEED_MODES[mode]
    request = request_14b((704, 384), fp8=options.fp8, kv_cache_dtype=options.kv_cache_dtype, sample_steps=steps)
    outcome = plan(LIVE_AVATAR_14B, request, measured_machine("1xH200", report, options.flash3))
    assert outcome.fps == pytest.approx(12 / measured["block_p50_s"], rel=0.05)
    assert outcome.ttff_s == pytest.approx(measured["first_frame_s"], rel=0.1)


SPREAD = [  # the fourth: error of the predicted first frame
    pytest.param(2, "fp8", 0.0, 0.12, id="two H200s, fp8"),
    pytest.param(2, "fp8 + e4m3 attention", 0.0, 0.14, id="two H200s, fp8 and e4m3 attention"),
    pytest.param(2, "bf16", 0.0, 0.12, id="two H200s, bf16"),
    pytest.param(4, "fp8", OLD_ENCODER_S, 0.12, id="four H200s, fp8"),
    pytest.param(4, "bf16", OLD_ENCODER_S, 0.12, id="four H200s, bf16"),
]


@pytest.mark.parametrize(("gpus", "mode", "encoder_s", "error"), SPREAD)
def test_the_planned_speed_of_several_gpus_is_the_measured_one(
    gpus: int, mode: str, encoder_s: float, error: float
) -> None:
    """Compare with the fastest split by layers of the newest report, with its decoder and encoder."""
    report = json.loads(sorted((REPO_ROOT / "data" / "benchmarks").glob(f"gpu_{gpus}xh200_20*.json"))[-1].read_text())
    rows = [row for row in report["tpp"] if row["mode"] == mode and row["split"] == "layers" and "fps" in row]
    measured = max(rows, key=lambda row: row["fps"])
    options = SPEED_MODES[mode]
    request = request_14b((704, 384), fp8=options.fp8, kv_cache_dtype=options.kv_cache_dtype, placement="tpp")
    decode_s = measured["ranks"][-1]["decode_s"]  # beside its layers
    here = measured_machine(f"{gpus}xH200", report, options.flash3, decode_s)
    assert plan(LIVE_AVATAR_14B, request, here).fps == pytest.approx(measured["fps"], rel=0.05)
    outcome = plan(LIVE_AVATAR_14B, request, measured_machine(f"{gpus}xH200", report, options.flash3))
    assert outcome.ttff_s + encoder_s == pytest.approx(measured["first_frame_s"], rel=error)


def test_the_planned_speed_of_blocks_that_go_round_is_the_measured_one() -> None:
    """Of two H200s without FlashAttention-3; the division is planned for cards that hold no whole transformer."""
    path = sorted((REPO_ROOT / "data" / "benchmarks").glob("gpu_2xh200_circular_20*.json"))[-1]
    report = json.loads(path.read_text())
    measured = next(row for row in report["tpp"] if row["split"] == "circular" and "fps" in row)
    request = request_14b((704, 384), fp8=True, kv_cache_dtype="bf16", placement="tpp")
    model = MemoryModel(LIVE_AVATAR_14B, request, measured_machine("2xH200", report, flash3=False))
    works = circulate(4, [row["layers"] // 4 for row in measured["ranks"]])
    assert 12 / model.block_seconds(works) == pytest.approx(12 / measured["block_p50_s"], rel=0.05)
