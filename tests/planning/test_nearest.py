"""Nearest setting that fits: it fits, it is understood, and nothing that fits is nearer."""

import shlex
from itertools import product
from typing import Any

import pytest

from flows.cli.options import make_parser
from flows.cli.plan import ANY
from flows.parameters import RenderParameters, read_parameters
from liveavatar.config import LIVE_AVATAR_14B, MINI, refuse_size
from liveavatar.planning import nearest as search
from liveavatar.planning.choice import choose
from liveavatar.planning.plan import describe, plan, video_size
from tests.planning.requests import machine, request_14b

NEAREST = [
    pytest.param("2x24GB", (704, 384), {"fp8": True}, id="two small cards"),
    pytest.param("1xH100", (704, 384), {"kv_cache_dtype": "bf16"}, id="one H100 in bf16"),
    pytest.param("1x48GB", (704, 384), {"fp8": True, "kv_cache_dtype": "int8"}, id="8-bit attention on 48 GB"),
    pytest.param("1xA100", (384, 256), {"kv_cache_dtype": "fp8"}, id="8-bit rings without an 8-bit unit"),
    pytest.param("1x24GB", (384, 256), {}, id="one small card"),
    pytest.param("2x48GB", (1280, 720), {}, id="the largest size"),
    pytest.param("2xA100-40GB", (704, 384), {"fp8": True}, id="cards without fp8"),
    pytest.param("1xA100-40GB,1xH200", (704, 384), {"fp8": True}, id="the first card without fp8"),
]


@pytest.mark.parametrize(("gpus", "size", "options"), NEAREST)
def test_nearest_fits(gpus: str, size: tuple[int, int], options: dict[str, bool]) -> None:
    here = machine(gpus)
    outcome = plan(LIVE_AVATAR_14B, request_14b(size, **options), here)
    assert not outcome.fits
    assert outcome.nearest is not None
    nearest = outcome.nearest
    width, height = (int(side) for side in nearest["size"].split("*"))
    request = request_14b(size).changed(
        width=width,
        height=height,
        sample_steps=nearest["sample_steps"],
        fp8=nearest["fp8"],
        kv_cache_dtype=nearest["kv_cache_dtype"],
        offload=nearest["offload_model"],
        placement=nearest["placement"],
    )
    again = plan(LIVE_AVATAR_14B, request, here)
    assert again.fits
    assert again.fps == pytest.approx(nearest["fps"], abs=0.01)
    options = shlex.split(describe(nearest))
    assert ["--size", nearest["size"]] == options[:2]
    understood = vars(make_parser("plan").parse_args(["plan", *options]))
    assert understood["kv_cache_dtype"] == nearest["kv_cache_dtype"]
    assert read_parameters({**ANY, **{k: v for k, v in understood.items() if k in RenderParameters.model_fields}})


@pytest.mark.parametrize(
    ("gpus", "area", "options", "size", "changes"),
    [
        pytest.param("1x48GB", (704, 384), {}, "704*384", {"fp8": True, "kv_cache_dtype": "fp8"}, id="precision first"),
        pytest.param("4xA100-80GB", (704, 384), {"placement": "single"}, "704*384", {"placement": "tpp"},
                     id="placement before steps"),
        pytest.param("1xA100", (704, 384), {}, "640*320", {}, id="a smaller size before fewer steps"),
        pytest.param("1xL40S", (704, 384), {}, "640*384", {"fp8": True}, id="a size before steps"),
        pytest.param("1x24GB", (704, 384), {}, "704*384", {"offload_model": True}, id="offload last"),
        pytest.param("2x24GB", (704, 384), {"fp8": True}, "640*320", {}, id="sizes between presets"),
    ],
)  # fmt: skip
def test_the_nearest_changes_least(
    gpus: str, area: tuple[int, int], options: dict[str, Any], size: str, changes: dict[str, Any]
) -> None:
    nearest = plan(LIVE_AVATAR_14B, request_14b(area, **options), machine(gpus)).nearest
    assert nearest is not None
    same = {"sample_steps": 4, "infer_frames": 48, "offload_model": False, "size": size}
    assert nearest.items() >= (same | changes).items()


def test_a_way_out_keeps_its_weights_on_the_gpus_of_a_group() -> None:
    asked = request_14b((704, 384), placement="tpp", fp8=True, offload=True)
    outcome = plan(LIVE_AVATAR_14B, asked, machine("4x24GB"))
    assert not outcome.fits
    assert any("drop --offload_model, or use --placement single" in reason for reason in outcome.reasons)
    assert outcome.nearest is not None
    assert not (outcome.nearest["placement"] == "tpp" and outcome.nearest["offload_model"])


@pytest.mark.parametrize(
    ("gpus", "options"),
    [
        pytest.param("2x24GB", {"fp8": True}, id="two small cards"),
        pytest.param("1xA100", {}, id="a card without fp8"),
        pytest.param("1xL40S", {}, id="48 GB"),
    ],
)
def test_nothing_that_fits_is_nearer(gpus: str, options: dict[str, Any]) -> None:
    asked, here = request_14b((704, 384), **options), machine(gpus)
    found = search.nearest(LIVE_AVATAR_14B, asked, here)
    assert found is not None

    def distance(steps: int, fp8: bool, offload: bool, size: tuple[int, int]) -> float:
        changes = search.STEPS * (4 - steps) + search.FP8 * (fp8 != asked.settings.fp8) + search.OFFLOAD * offload
        return changes + search.size_distance(asked, size)

    sizes = search.reachable_sizes(LIVE_AVATAR_14B, (asked.width, asked.height))
    precisions = [True] if asked.settings.fp8 else [False, True]
    nearest = min(
        distance(steps, fp8, offload, (width, height))
        for steps, fp8, offload, (width, height) in product((3, 4), precisions, (False, True), sizes)
        if choose(
            LIVE_AVATAR_14B,
            asked.changed(sample_steps=steps, fp8=fp8, offload=offload, width=width, height=height),
            here,
        ).fits
    )
    width, height = (int(side) for side in found["size"].split("*"))
    assert distance(found["sample_steps"], found["fp8"], found["offload_model"], (width, height)) == nearest


def test_a_size_below_the_least_is_asked_for_by_the_least() -> None:
    asked = request_14b((384, 256), width=384, height=192)  # of a wide picture
    nearest = search.nearest(LIVE_AVATAR_14B, asked, machine("1x24GB"))
    assert nearest is not None
    assert video_size(LIVE_AVATAR_14B, (384, 256), (1000, 500)) == (384, 192)
    assert nearest["size"] == "384*256"


@pytest.mark.parametrize("size", [(704, 384), (384, 704), (512, 512), (512, 256), (1280, 704)])
def test_sizes_on_offer_are_what_the_option_gives(size: tuple[int, int]) -> None:
    sizes = search.reachable_sizes(LIVE_AVATAR_14B, size)
    assert sizes[0] == size
    areas = [width * height for width, height in sizes]
    assert areas == sorted(areas, reverse=True)
    assert len(sizes) > 1
    for other in sizes[1:]:
        refuse_size(LIVE_AVATAR_14B, other)
        assert video_size(LIVE_AVATAR_14B, other, size) == other


def test_a_model_of_listed_sizes_offers_those() -> None:
    assert search.reachable_sizes(MINI, (256, 384)) == [(256, 384)]
    assert search.reachable_sizes(MINI, (768, 512)) == [(768, 512), (384, 256)]
