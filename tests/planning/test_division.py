"""Division among GPUs: as many of them as a job gains from, and layers by their speed where they are unlike."""

from typing import Any

import pytest

from liveavatar.config import LIVE_AVATAR_14B
from liveavatar.engine.placement import split_layers
from liveavatar.planning.choice import choose, settled
from liveavatar.planning.division import divide, divide_among
from liveavatar.planning.memory import MemoryModel
from liveavatar.timing import BLOCK_FRAMES
from tests.planning.requests import machine, request_14b


@pytest.mark.parametrize(
    ("gpus", "more", "options"),
    [
        pytest.param("4xH200", "1x8GB", {}, id="the fifth has no room for layers"),
        pytest.param("2xH200", "1xA100-40GB", {"fp8": True, "sample_steps": 3}, id="the third has no 8-bit unit"),
        pytest.param("2xH200", "1x3090", {}, id="the third is slow"),
        pytest.param("4x24GB", "1x8GB", {"fp8": True}, id="small cards, and one that is too small"),
        pytest.param("2xH200", "6xH200", {"host_gb": 20.0}, id="the host has no room for eight processes"),
    ],
)
def test_a_gpu_more_makes_no_job_slower(gpus: str, more: str, options: dict[str, Any]) -> None:
    host_gb = options.pop("host_gb", 256.0)
    asked = request_14b((704, 384), **options)
    few, many = (choose(LIVE_AVATAR_14B, asked, machine(named, host_gb=host_gb)) for named in (gpus, f"{gpus},{more}"))
    assert many.fits
    assert many.fps >= few.fps
    named = settled(LIVE_AVATAR_14B, asked.changed(placement="tpp"), machine(f"{gpus},{more}", host_gb=host_gb))
    assert (named.fits, named.fps, len(named.loads)) == (True, many.fps, len(many.loads)), "asked for by its name"


@pytest.mark.parametrize("gpus", ["2x5090,2xH100", "3x32GB,1xH200,2x32GB", "1xH200,1x4090", "2xH200,1xA100-40GB"])
def test_fp8_makes_no_job_slower_on_unlike_gpus(gpus: str) -> None:
    for area in ((384, 256), (640, 384)):
        wide, narrow = (
            choose(LIVE_AVATAR_14B, request_14b(area, fp8=fp8, sample_steps=3), machine(gpus)) for fp8 in (False, True)
        )
        assert narrow.fits or not wide.fits
        assert narrow.fps >= wide.fps or not wide.fits


def test_unlike_gpus_have_layers_by_their_speed() -> None:
    asked = request_14b((704, 384), fp8=True, kv_cache_dtype="fp8", placement="tpp")
    choice = settled(LIVE_AVATAR_14B, asked, machine("1xH200,1xL40S"))
    fast, slow = choice.model.layers("tpp")
    assert fast > 3 * slow
    assert choice.fps > 1.5 * BLOCK_FRAMES / choice.model.block_seconds(split_layers(4, 40, 2, 0.0))


def test_like_gpus_all_take_part() -> None:
    here = machine("4xH200")
    model = MemoryModel(LIVE_AVATAR_14B, request_14b((704, 384), fp8=True, kv_cache_dtype="bf16"), here)
    works = divide(model, here.gpus, 4, 40)
    assert works == divide_among(model, here.gpus, 4, 40)
    assert works == split_layers(4, 40, 4, model.speeds(here.gpus[0]).decode_layers(40))


def test_what_fits_nowhere_is_refused_for_all_gpus() -> None:
    here = machine("3x8GB,1x10GB")
    model = MemoryModel(LIVE_AVATAR_14B, request_14b((704, 384), kv_cache_dtype="bf16"), here)
    works = divide(model, here.gpus, 4, 40)
    assert not model.holds(works)
    assert (len(works), works[0].circular) == (4, True), "the division that comes nearest"
