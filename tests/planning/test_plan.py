"""The memory and time model: its parts against true shapes, and the settings people ask about."""

import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flows.cli.options import make_parser
from flows.cli.plan import ANY
from flows.parameters import RenderParameters, read_parameters
from liveavatar.bench.gpu.run import SPEED_MODES
from liveavatar.config import LIVE_AVATAR_14B, MINI, TINY, ModelConfig
from liveavatar.errors import CapacityError, InputError
from liveavatar.hardware import GB, Machine, available_gb, detect_gpus, detect_machine, memory_limit_gb, parse_gpus
from liveavatar.model.dit import CausalDiT
from liveavatar.paths import REPO_ROOT
from liveavatar.planning.costs import dit_costs, text_bytes, vae_costs
from liveavatar.planning.plan import PlanRequest, describe, plan, video_size

CLIP = 48  # frames


def machine(gpus: str, host_gb: float = 256, disk_gb: float = 1000) -> Machine:
    return Machine(gpus=parse_gpus(gpus), cores=16, host_gb=host_gb, disk_gb=disk_gb)


def job(size: tuple[int, int], sample_steps: int = 4, **options: object) -> PlanRequest:
    width, height = video_size(LIVE_AVATAR_14B, size, None)
    return PlanRequest(width=width, height=height, num_frames=50 * CLIP, sample_steps=sample_steps, **options)


def test_weights_are_counted_from_the_network() -> None:
    for config in (LIVE_AVATAR_14B, MINI, TINY):
        with torch.device("meta"):
            total = sum(p.numel() for p in CausalDiT(config.dit).parameters())
        costs = dit_costs(config.dit, 768, 512, config.vae.spatial_stride)
        assert costs.linear_weights + costs.other_weights == total
    assert total > 0


def test_14b_numbers_of_the_specification() -> None:
    costs = dit_costs(LIVE_AVATAR_14B.dit, 704, 384, 8)
    assert costs.linear_weights + costs.other_weights == 16_295_755_609
    assert costs.weight_bytes(fp8=False) == pytest.approx(32.6e9, rel=0.01)
    assert costs.weight_bytes(fp8=True) == pytest.approx(16.6e9, rel=0.01)
    assert costs.ring_bytes == pytest.approx(10.4e9, rel=0.01)
    assert costs.ring_bytes / 40 == pytest.approx(259.5e6, rel=0.01)  # a layer
    assert costs.sink_bytes == pytest.approx(2.2e9, rel=0.02)
    assert costs.tokens == 3168
    assert costs.linear_flop == pytest.approx(80e12, rel=0.02)  # 76 in blocks, 4 in audio injectors
    assert costs.attention_flop == pytest.approx(40e12, rel=0.02)
    assert text_bytes(LIVE_AVATAR_14B) == pytest.approx(11.4e9, rel=0.01)


def test_decoder_state_is_what_a_stream_holds() -> None:
    from liveavatar.model.vae import build_vae

    config = TINY
    vae = build_vae(config.vae)
    state = vae.decoder_state(1, 4, 6)
    vae.decode_stream(torch.zeros(1, config.vae.z_dim, 3, 4, 6), state)
    held = sum(t.numel() * 2 for t in state.tensors().values())
    assert vae_costs(config.vae, 19, 96, 64).state_bytes == held


@pytest.mark.parametrize(
    ("text", "count", "memory"),
    [
        pytest.param("4x24GB", 4, 24, id="count and memory"),
        pytest.param("24gb", 1, 24, id="memory alone"),
        pytest.param("1xH100", 1, 80, id="name"),
        pytest.param("8*h200", 8, 141, id="other sign"),
        pytest.param("2xA100-40GB", 2, 40, id="name and memory"),
        pytest.param("2xRTX 4090", 2, 24, id="name with a space"),
        pytest.param("cpu", 0, 0, id="none"),
    ],
)
def test_parse_gpus(text: str, count: int, memory: float) -> None:
    gpus = parse_gpus(text)
    assert len(gpus) == count
    assert all(g.memory_gb == memory for g in gpus)


@pytest.mark.parametrize("text", ["", "0x24GB", "99x24GB", "4x", "2xToaster", "-1xH100", "1x0GB"])
def test_parse_gpus_refuses(text: str) -> None:
    with pytest.raises(InputError, match="gpus"):
        parse_gpus(text)


def test_a_24gb_card_has_22_15_usable() -> None:
    assert parse_gpus("24GB")[0].usable_gb == pytest.approx(22.15)


# The recommendations and prohibitions of the article this project grew from, judged by the model of memory; it knew
# keys and values in bf16 only.
ARTICLE = [
    pytest.param((384, 256), 3, "4x24GB", True, True, id="384*256, 3 steps, 4x24: fits with a decoder of its own"),
    pytest.param((384, 256), 3, "4x24GB", False, False, id="the same in bf16: the weights alone are too large"),
    pytest.param((384, 256), 4, "4x24GB", True, False, id="384*256, 4 steps, 4x24: the decoder's card is too full"),
    pytest.param((688, 368), 4, "4x24GB", True, False, id="688*368, 4 steps, 4x24: the sweet spot does not fit"),
    pytest.param((704, 384), 4, "4x24GB", True, False, id="704*384, 4 steps, 4x24: not tight, too much"),
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
    decided = plan(LIVE_AVATAR_14B, job(size, steps, fp8=fp8, kv_cache_dtype="bf16"), machine(gpus))
    assert decided.fits == fits
    over = [s for s in decided.per_gpu_gb if s.total > s.usable]
    assert bool(over) != fits
    if not fits:
        assert "usable" in decided.reasons[0]
        with pytest.raises(CapacityError, match="does not fit"):
            decided.require()


def test_long_offline_jobs_are_allowed_because_nothing_grows() -> None:
    short = plan(LIVE_AVATAR_14B, job((688, 368), fp8=True), machine("4x48GB"))
    long_job = replace(job((688, 368), fp8=True), infer_frames=60, num_frames=200 * 60)
    long = plan(LIVE_AVATAR_14B, long_job, machine("4x48GB"))
    assert long.fits
    assert [s.total for s in long.per_gpu_gb] == [s.total for s in short.per_gpu_gb]
    assert long.host_gb == short.host_gb
    assert long.disk_gb["latents"] == pytest.approx(5 * short.disk_gb["latents"])


def test_clips_of_64_frames_are_refused_with_a_length_that_works() -> None:
    decided = plan(LIVE_AVATAR_14B, replace(job((688, 368), fp8=True), infer_frames=64), machine("4x48GB"))
    assert not decided.fits
    assert "multiple of 12" in decided.reasons[0]
    assert decided.nearest is not None
    assert decided.nearest["infer_frames"] == 60


NEAREST = [
    pytest.param("4x24GB", (704, 384), {"fp8": True}, id="four small cards"),
    pytest.param("1xH100", (704, 384), {"kv_cache_dtype": "bf16"}, id="one H100 in bf16"),
    pytest.param("1x48GB", (704, 384), {"fp8": True, "kv_cache_dtype": "int8"}, id="8-bit attention on 48 GB"),
    pytest.param("1xA100", (384, 256), {"kv_cache_dtype": "fp8"}, id="8-bit rings without an 8-bit unit"),
    pytest.param("1x24GB", (384, 256), {}, id="one small card"),
    pytest.param("2x48GB", (1280, 720), {}, id="the largest size"),
    pytest.param("2xA100-40GB", (704, 384), {"fp8": True}, id="cards without fp8"),
]


@pytest.mark.parametrize(("gpus", "size", "options"), NEAREST)
def test_nearest_fits(gpus: str, size: tuple[int, int], options: dict[str, bool]) -> None:
    here = machine(gpus)
    decided = plan(LIVE_AVATAR_14B, job(size, **options), here)
    assert not decided.fits
    assert decided.nearest is not None
    nearest = decided.nearest
    width, height = (int(side) for side in nearest["size"].split("*"))
    again = PlanRequest(
        width=width,
        height=height,
        num_frames=50 * CLIP,
        sample_steps=nearest["sample_steps"],
        fp8=nearest["fp8"],
        kv_cache_dtype=nearest["kv_cache_dtype"],
        offload=nearest["offload_model"],
        placement=nearest["placement"],
    )
    followed = plan(LIVE_AVATAR_14B, again, here)
    assert followed.fits
    assert followed.fps == pytest.approx(nearest["fps"], abs=0.01)
    options = shlex.split(describe(nearest))
    assert ["--size", nearest["size"]] == options[:2]
    understood = vars(make_parser("plan").parse_args(["plan", *options]))
    assert understood["kv_cache_dtype"] == nearest["kv_cache_dtype"]
    assert read_parameters({**ANY, **{k: v for k, v in understood.items() if k in RenderParameters.model_fields}})


CHOICES = [
    pytest.param("1x24GB", (384, 256), {"fp8": True, "offload": True}, "fp8", id="24 GB, offloaded"),
    pytest.param("1x48GB", (384, 256), {"fp8": True}, "bf16", id="48 GB, small"),
    pytest.param("1x48GB", (704, 384), {"fp8": True}, "fp8", id="48 GB"),
    pytest.param("1xH100", (384, 256), {"fp8": True}, "bf16", id="80 GB, small"),
    pytest.param("1xH100", (704, 384), {"fp8": True}, "fp8", id="80 GB"),
    pytest.param("1xH100-79.65GB", (704, 384), {}, "fp8", id="80 GB as the driver counts, bf16 weights"),
    pytest.param("1xH200", (704, 384), {"fp8": True}, "bf16", id="141 GB"),
    pytest.param("1xH200", (704, 384), {}, "bf16", id="141 GB, bf16 weights"),
    pytest.param("1xA100", (384, 256), {}, "bf16", id="no 8-bit unit"),
    pytest.param("1xH100", (704, 384), {"fp8": True, "kv_cache_dtype": "int8"}, "int8", id="8-bit attention"),
]


@pytest.mark.parametrize(("gpus", "size", "options", "chosen"), CHOICES)
def test_keys_and_values_are_kept_in_what_fits(
    gpus: str, size: tuple[int, int], options: dict[str, Any], chosen: str
) -> None:
    decided = plan(LIVE_AVATAR_14B, job(size, **options), machine(gpus))
    assert decided.fits
    assert decided.settings["kv_cache_dtype"] == chosen
    said = any(f"are kept in {chosen}" in reason for reason in decided.reasons)
    assert said == ("kv_cache_dtype" not in options)
    seat = decided.per_gpu_gb[0]
    assert seat.total <= seat.usable
    if chosen == "bf16":
        assert seat.total + seat.recorded + 3 <= seat.usable


def test_a_card_too_full_for_graphs_is_said_to_be_slower() -> None:
    for gpus, said in (("1x48GB", True), ("1xH100", False)):
        decided = plan(LIVE_AVATAR_14B, job((704, 384), fp8=True), machine(gpus))
        assert any("no room to record the decoder" in reason for reason in decided.reasons) == said
    assert not plan(LIVE_AVATAR_14B, job((704, 384), fp8=True), machine("1xL40S")).fits


@pytest.mark.parametrize(
    ("config", "gpus", "asked", "says"),
    [
        pytest.param(LIVE_AVATAR_14B, "1xA100", "int8", "no 8-bit matrix unit", id="no 8-bit unit"),
        pytest.param(LIVE_AVATAR_14B, "cpu", "fp8", "only the large model on a GPU", id="a CPU"),
        pytest.param(MINI, "1xH100", "bf16", "only the large model on a GPU", id="the small model"),
    ],
)
def test_what_has_no_choice_of_keys_and_values_is_refused(
    config: ModelConfig, gpus: str, asked: str, says: str
) -> None:
    wanted = PlanRequest(width=384, height=256, num_frames=48, kv_cache_dtype=asked)
    decided = plan(config, wanted, machine(gpus))
    assert not decided.fits
    assert any(f"--kv_cache_dtype {asked}: " in reason and says in reason for reason in decided.reasons)


def test_no_gpu_points_to_the_mini() -> None:
    decided = plan(LIVE_AVATAR_14B, job((704, 384)), machine("cpu"))
    assert not decided.fits
    assert decided.nearest is not None
    assert decided.nearest["model"] == "mini"


@pytest.mark.parametrize(
    ("gpus", "steps", "roles"),
    [
        pytest.param("5xH100", 4, ["step 1", "step 2", "step 3", "step 4", "decoder"], id="a decoder of its own"),
        pytest.param("8xH100", 4, ["step 1", "step 2", "step 3", "step 4", "decoder"], id="three stay idle"),
        pytest.param("2xH200", 3, ["steps 1-2 up to layer N", "steps 2-3 from layer N + decoder"], id="two"),
        pytest.param(
            "4xH100",
            4,
            [
                "steps 1-2 up to layer N",
                "steps 2-3 from layer N up to layer N",
                "steps 3-4 from layer N up to layer N",
                "step 4 from layer N + decoder",
            ],
            id="the last decodes and has fewer layers",
        ),
    ],
)
def test_tpp_stages(gpus: str, steps: int, roles: list[str]) -> None:
    decided = plan(LIVE_AVATAR_14B, job((704, 384), steps, placement="tpp"), machine(gpus))
    assert [re.sub(r"layer \d+", "layer N", s.role) for s in decided.per_gpu_gb] == roles


def test_only_the_gpu_that_decodes_has_the_autoencoder() -> None:
    decided = plan(LIVE_AVATAR_14B, job((704, 384), placement="tpp"), machine("4xH200"))
    assert [("autoencoder" in seat.breakdown) for seat in decided.per_gpu_gb] == [False, False, False, True]
    alone = plan(LIVE_AVATAR_14B, job((704, 384), placement="tpp"), machine("5xH200")).per_gpu_gb
    assert [set(seat.breakdown) == {"autoencoder", "working memory"} for seat in alone] == [False] * 4 + [True]
    assert alone[-1].total < 6


def test_auto_spreads_a_job_only_when_one_gpu_does_not_hold_it() -> None:
    one = plan(LIVE_AVATAR_14B, job((704, 384)), machine("4xH200"))
    assert one.placement == "single"
    assert any("3 of 4 GPUs stay idle; --placement tpp is reckoned at" in reason for reason in one.reasons)
    assert plan(LIVE_AVATAR_14B, job((704, 384)), machine("4xH100")).placement == "tpp"


@pytest.mark.parametrize("placement", ["single", "auto"])
def test_no_way_out_leads_to_what_cannot_be_rendered(placement: str) -> None:
    here = machine("4x24GB")
    decided = plan(LIVE_AVATAR_14B, job((704, 384), placement=placement, fp8=True), here)
    assert not decided.fits
    nearest = decided.nearest
    assert nearest is not None
    assert not (nearest["placement"] == "tpp" and nearest["offload_model"])
    assert nearest["placement"] == "tpp"  # in 8 bits: bf16 does not fit anyway
    shown = plan(LIVE_AVATAR_14B, job((384, 256), 3, placement="tpp", fp8=True, offload=True), here)
    assert shown.fits
    assert any("use --placement single to render" in reason for reason in shown.reasons)


def test_gpus_of_a_group_are_as_busy_as_one_another() -> None:
    four = machine("4xH200")
    decided = plan(LIVE_AVATAR_14B, job((704, 384), placement="tpp", fp8=True), four)
    one = plan(LIVE_AVATAR_14B, job((704, 384), placement="single", fp8=True), four)
    assert decided.fits
    assert decided.fps == pytest.approx(4 * one.fps, rel=0.03)
    rings = [seat.breakdown["rings"] for seat in decided.per_gpu_gb]
    assert rings[0] == pytest.approx(rings[1], rel=0.05)
    assert rings[3] < 0.8 * rings[0]


def test_what_one_gpu_does_not_hold_is_offered_on_several() -> None:
    decided = plan(LIVE_AVATAR_14B, job((704, 384), placement="single"), machine("4xA100-80GB"))
    assert not decided.fits
    assert decided.nearest is not None
    assert decided.nearest["placement"] == "tpp"


def test_processes_on_a_cpu_count_their_weights() -> None:
    small = PlanRequest(width=384, height=256, num_frames=48, placement="tpp", processes=3)
    here = machine("cpu", host_gb=64)
    three, two = (plan(MINI, replace(small, processes=n), here).host_gb for n in (3, 2))
    assert three["processes"] == pytest.approx(1.5 * two["processes"])
    assert three["weights"] > 1.3 * two["weights"]


def test_more_gpus_are_faster_and_more_steps_slower() -> None:
    def fps(gpus: str, steps: int, **options: object) -> float:
        return plan(LIVE_AVATAR_14B, job((704, 384), steps, **options), machine(gpus)).fps

    spread = [fps(f"{n}xH200", 4, placement="tpp") for n in (2, 4, 5)]
    assert fps("1xH200", 4) < spread[0] < spread[1] < spread[2]
    assert fps("1xH200", 6) < fps("1xH200", 4) < fps("1xH200", 3)
    assert fps("1xH200", 4) < fps("1xH200", 4, fp8=True)
    assert fps("1xH200", 4, fp8=True, offload=True) < fps("1xH200", 4, fp8=True)
    assert fps("4xH200", 4, placement="replicas") == pytest.approx(4 * fps("1xH200", 4))


def test_host_and_disk_count() -> None:
    decided = plan(LIVE_AVATAR_14B, job((704, 384)), machine("1xH200", host_gb=8))
    assert not decided.fits
    assert "host" in decided.reasons[0]
    long = replace(job((704, 384)), num_frames=3_000_000)
    decided = plan(LIVE_AVATAR_14B, long, machine("1xH200", disk_gb=50))
    assert not decided.fits
    assert "disk" in decided.reasons[0]


def test_a_disk_too_small_for_snapshots_only_loses_them() -> None:
    decided = plan(LIVE_AVATAR_14B, job((704, 384)), machine("1xH200", disk_gb=50))
    assert decided.fits
    assert "could not be resumed" in decided.reasons[-1]


def test_a_machine_that_is_only_named_is_not_judged_by_this_one() -> None:
    here = detect_machine(Path("out"), parse_gpus("8xH200"))
    assert plan(LIVE_AVATAR_14B, replace(job((704, 384)), num_frames=3_000_000), here).fits
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
        plan(LIVE_AVATAR_14B, replace(job((704, 384)), **changes), machine("1xH200"))


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


def test_cpu_pace_is_measured_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    here = machine("cpu", host_gb=16)
    wanted = PlanRequest(width=384, height=256, num_frames=250, sample_steps=2)
    first = plan(TINY, wanted, here)
    assert first.fits
    assert first.fps > 0
    assert len(list(tmp_path.glob("speed/*.json"))) == 1
    assert plan(TINY, wanted, here).fps == first.fps


def test_plans_are_plain_json() -> None:
    decided = plan(LIVE_AVATAR_14B, job((704, 384), fp8=True), machine("4x24GB")).to_dict()
    parsed = json.loads(json.dumps(decided))
    assert parsed.keys() >= {"fits", "placement", "per_gpu_gb", "fps", "ttff_s", "reasons", "nearest"}
    seat = parsed["per_gpu_gb"][0]
    assert math.isclose(sum(seat["breakdown"].values()), seat["total"], abs_tol=0.01)


def test_this_machine_is_read() -> None:
    assert 0 < available_gb() <= memory_limit_gb()
    assert all(g.memory_gb > 1 for g in detect_gpus())
    assert GB == 2**30


MEASURED = [
    pytest.param("h200", "fp8", id="fp8 on an H200"),
    pytest.param("h200", "bf16", id="bf16 on an H200"),
    pytest.param("h200", "fp8 + fp8 rings", id="fp8 and fp8 rings on an H200"),
    pytest.param("h100", "fp8 + 8-bit attention", id="fp8 and 8-bit attention on an H100"),
    pytest.param("h100", "bf16 + fp8 rings", id="fp8 rings on an H100"),
    pytest.param("h100", "fp8 + fp8 rings", id="fp8 and fp8 rings on an H100"),
]


@pytest.mark.parametrize(("gpu", "mode"), MEASURED)
def test_what_is_planned_is_what_was_measured(gpu: str, mode: str) -> None:
    """Of the reports of `liveavatar bench gpu` in the repository, the newest of a GPU."""
    report = json.loads(sorted((REPO_ROOT / "data" / "benchmarks").glob(f"gpu_{gpu}_20*.json"))[-1].read_text())
    measured = next(row for row in report["speed"] if row["mode"] == mode)
    width, height = (int(side) for side in measured["size"].split("*"))
    asked = SPEED_MODES[mode]
    wanted = job((width, height), fp8=asked.fp8, kv_cache_dtype=asked.kv_cache_dtype)
    found = plan(LIVE_AVATAR_14B, wanted, machine(f"1x{gpu}"))
    assert found.per_gpu_gb[0].total == pytest.approx(measured["peak_gib"], rel=0.07)
    assert found.fps == pytest.approx(measured["fps"], rel=0.08)
    assert found.ttff_s == pytest.approx(measured["first_frame_s"], rel=0.15)
