"""Choice of placement and dtype: as fast as the video plays, spread where one GPU is not, never slower for fp8."""

import random
from typing import Any

import pytest

from liveavatar.config import LIVE_AVATAR_14B, MINI
from liveavatar.engine.placement import split_layers
from liveavatar.planning.choice import can_spread, choose, parts, settled, with_kv_dtype
from liveavatar.planning.plan import plan
from tests.planning.requests import machine, request_14b, small_request


@pytest.mark.parametrize(
    ("gpus", "options", "placement"),
    [
        pytest.param("4xH200", {}, "tpp", id="one is too slow"),
        pytest.param("4xH100", {"fp8": True}, "tpp", id="one holds it, and is too slow"),
        pytest.param("4xH100", {}, "tpp", id="one holds it with fp8 rings"),
        pytest.param(
            "4xB200", {"fp8": True, "sample_steps": 3, "width": 384, "height": 256}, "single", id="one is live"
        ),
        pytest.param("4x24GB", {"width": 512, "height": 256, "fp8": True}, "tpp", id="one does not hold it"),
        pytest.param("4xH200", {"offload": True}, "single", id="offloaded weights stay on one"),
        pytest.param("1xH200", {}, "single", id="there is one"),
        pytest.param("4xH200", {"placement": "single"}, "single", id="asked for one"),
        pytest.param("4x48GB", {"width": 1280, "height": 704}, "tpp", id="nothing holds it"),
        pytest.param("1xH200,3x8GB", {"fp8": True}, "single", id="the others are too small"),
    ],
)
def test_auto_is_the_placement_that_plays(gpus: str, options: dict[str, Any], placement: str) -> None:
    choice = choose(LIVE_AVATAR_14B, request_14b((704, 384), **options), machine(gpus))
    assert choice.placement == placement
    assert choice.model.request.settings.kv_cache_dtype in ("bf16", "fp8")


@pytest.mark.parametrize("steps", [3, 4, 6])
@pytest.mark.parametrize("area", [(384, 256), (704, 384)])
@pytest.mark.parametrize("gpus", ["2xB200", "4xH200", "4xH100", "2x48GB", "8xH100", "1xH100"])
def test_fp8_never_makes_a_job_slower(gpus: str, area: tuple[int, int], steps: int) -> None:
    here = machine(gpus)
    wide, narrow = (
        choose(LIVE_AVATAR_14B, request_14b(area, sample_steps=steps, fp8=fp8), here) for fp8 in (False, True)
    )
    assert narrow.fits or not wide.fits
    assert narrow.fps > wide.fps or not wide.fits


def test_gpus_of_different_kinds_are_counted_each() -> None:
    asked = request_14b((704, 384), fp8=True, placement="tpp", kv_cache_dtype="bf16")
    equal, mixed = (settled(LIVE_AVATAR_14B, asked, machine(gpus)) for gpus in ("2xH200", "1xH200,1xA100"))
    assert any("no 8-bit matrix unit" in reason for reason in mixed.refusals)
    assert equal.fits
    first = settled(LIVE_AVATAR_14B, asked.changed(placement="single"), machine("1xH200,1xA100"))
    alone = settled(LIVE_AVATAR_14B, asked.changed(placement="single"), machine("1xH200"))
    assert (first.fps, first.loads, first.fits) == (alone.fps, alone.loads, True), "the second is not used"
    wide = asked.changed(fp8=False)
    slow, fast = (settled(LIVE_AVATAR_14B, wide, machine(gpus)).fps for gpus in ("1xH200,1xA100-141GB", "2xH200"))
    assert slow < fast


def test_small_models_are_not_spread_without_being_asked() -> None:
    assert not can_spread(MINI, small_request(), machine("4xH200"))
    assert choose(MINI, small_request(), machine("4xH200")).placement == "single"


def test_parts_are_listed_by_size() -> None:
    assert parts({"a": 1.0, "b": 2.0, "nothing": 0.001, "total": 3.0}) == "b 2.00, a 1.00"


def random_jobs(count: int) -> list[tuple[str, dict[str, Any]]]:
    """Machines with two to eight GPUs of one kind or several, and jobs."""
    rng = random.Random(25)
    kinds = ("8GB", "12GB", "16GB", "24GB", "32GB", "48GB", "H100", "H200", "A100")
    jobs = []
    for _ in range(count):
        gpus = ",".join(rng.choice(kinds[:7]) for _ in range(rng.randint(2, 5)))
        if rng.random() < 0.7:
            gpus = f"{rng.randint(2, 8)}x{rng.choice(kinds)}"
        width, height = rng.choice([(384, 256), (512, 320), (640, 384), (704, 384), (960, 512)])
        options = {"width": width, "height": height, "sample_steps": rng.randint(3, 6), "fp8": rng.random() < 0.6}
        jobs.append((gpus, options | {"kv_cache_dtype": rng.choice(["auto", "bf16", "fp8"])}))
    return jobs


@pytest.mark.parametrize(("gpus", "options"), random_jobs(40))
def test_a_spread_job_is_divided_without_gaps_and_in_parts_only_where_it_must(
    gpus: str, options: dict[str, Any]
) -> None:
    here, asked = machine(gpus), request_14b((704, 384), **options, placement="tpp")
    choice = settled(LIVE_AVATAR_14B, asked, here)
    model, steps, num_layers = choice.model, options["sample_steps"], LIVE_AVATAR_14B.dit.num_layers
    works, layers = model.rank_work(), model.layers("tpp")
    for step in range(steps):
        spans = [span for work in works for span in work.spans(num_layers) if span.step == step]
        assert [layer for span in spans for layer in span.layers] == list(range(num_layers))
    assert (len(choice.loads), sum(layers)) == (len(works), num_layers if layers else 0)
    bound = model.bound("tpp")
    assert bound is not None
    assert choice.fps <= bound * 1.0001
    if choice.fits:
        assert all(load.fits for load in choice.loads)
    if layers and len(set(here.gpus)) == 1:
        weight = model.speeds(here.gpus[len(works) - 1]).decode_layers(num_layers)
        whole = model.rank_loads(split_layers(steps, num_layers, len(works), weight))
        assert not all(load.fits for load in whole)
    outcome = plan(LIVE_AVATAR_14B, asked, here)
    assert (outcome.fits, outcome.layers, outcome.fps) == (choice.fits, layers, choice.fps)
    assert (outcome.refusal is None) == choice.fits


@pytest.mark.parametrize("changes", [{}, {"fp8": True}, {"fp8": True, "offload": True}])
def test_a_decision_about_keys_and_values_is_final(changes: dict[str, Any]) -> None:
    here = machine("1xH100")
    request = with_kv_dtype(LIVE_AVATAR_14B, request_14b((704, 384), **changes), here)
    assert request.settings.kv_cache_dtype in ("bf16", "fp8")
    assert with_kv_dtype(LIVE_AVATAR_14B, request, here) is request
    assert with_kv_dtype(MINI, small_request(), here).settings.kv_cache_dtype == "auto"
    assert with_kv_dtype(LIVE_AVATAR_14B, request_14b((704, 384)), machine("cpu")).settings.kv_cache_dtype == "auto"
