"""The cached plan: what it depends on, and its refusal on a machine that has become too small."""

from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.parameters import RenderParameters
from liveavatar.config import LIVE_AVATAR_14B, MINI, TINY
from liveavatar.engine.settings import RenderSettings
from liveavatar.errors import CapacityError
from liveavatar.hardware import Machine, gpu_of
from liveavatar.planning.request import PlanRequest
from tasks.plan import CODE, PACKAGES, plan, plan_for_fewer, plan_inputs, request_of
from tasks.store.keys import stage_key
from tests.tasks.test_render import OTHER_SETTINGS

HERE = Machine(gpus=(gpu_of("H100"),), cores=8, host_gb=64, disk_gb=100)
REQUEST = PlanRequest(width=384, height=256, num_frames=48, settings=RenderSettings(prompt="a calm woman"))
OTHER_REQUEST: dict[str, Any] = {
    "width": 256,
    "height": 384,
    "num_frames": 60,
    "offload": True,
    "placement": "tpp",
    "online_decode": True,
    "processes": 2,
    "posed": True,
    "piped": True,
}


def key(request: PlanRequest = REQUEST, machine: Machine = HERE, model: Any = MINI) -> str:
    return stage_key("plan", plan_inputs(model, request, machine), CODE, PACKAGES).digest


@pytest.mark.parametrize("name", [field.name for field in fields(RenderSettings)])
def test_prompt_and_seed_alone_do_not_change_a_plan(name: str) -> None:
    assert getattr(REQUEST.settings, name) != OTHER_SETTINGS[name]
    changed = key(REQUEST.changed(**{name: OTHER_SETTINGS[name]})) != key()
    assert changed == (name not in ("prompt", "prompt_words", "seed"))


@pytest.mark.parametrize("name", [field.name for field in fields(PlanRequest) if field.name != "settings"])
def test_everything_else_of_a_request_changes_it(name: str) -> None:
    assert key(REQUEST.changed(**{name: OTHER_REQUEST[name]})) != key()


@pytest.mark.parametrize(
    ("machine", "changes"),
    [
        pytest.param(replace(HERE, gpus=()), True, id="no GPU"),
        pytest.param(replace(HERE, gpus=HERE.gpus * 2), True, id="two GPUs"),
        pytest.param(replace(HERE, cores=9), True, id="cores"),
        pytest.param(replace(HERE, host_gb=65, disk_gb=99), False, id="free space, which changes every second"),
    ],
)
def test_a_plan_depends_on_the_machine(machine: Machine, changes: bool) -> None:
    assert (key(machine=machine) != key()) == changes


def test_a_plan_depends_on_the_model() -> None:
    assert key(model=TINY) != key()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, {"processes": 2}, id="defaults"),
        pytest.param({"num_gpus": 3}, {"processes": 3}, id="processes"),
        pytest.param({"num_gpus": 9, "sample_steps": 3}, {"processes": 4}, id="no more than steps and a decoder"),
        pytest.param({"offload_model": True, "enable_online_decode": True}, {"offload": True, "online_decode": True},
                     id="flags"),
        pytest.param({"pose_video": "nod.csv"}, {"posed": True}, id="a pose"),
        pytest.param({"placement": "tpp", "seed": 5, "fp8": True}, {"placement": "tpp"}, id="settings whole"),
    ],
)  # fmt: skip
def test_a_form_becomes_a_request(options: dict[str, Any], expected: dict[str, Any]) -> None:
    form = RenderParameters.model_validate({"audio": "a", "image": "i", "prompt": "p", **options})
    request = request_of(form.settings(), form.model_dump(), 384, 256, 48)
    whole = PlanRequest(width=384, height=256, num_frames=48, settings=form.settings(), processes=2)
    assert request == whole.changed(**expected)


def test_a_plan_is_made_again_where_space_has_become_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    large = Machine(gpus=(gpu_of("H200"),), cores=8, host_gb=256, disk_gb=1000)
    build = plan.fn
    first = build(LIVE_AVATAR_14B, REQUEST, large)
    assert not first.hit
    assert build(LIVE_AVATAR_14B, REQUEST.changed(seed=7, prompt="another"), large).hit
    with pytest.raises(CapacityError, match="host"):
        build(LIVE_AVATAR_14B, REQUEST, replace(large, host_gb=1))


FOUR = Machine(gpus=tuple(gpu_of(name) for name in ("H200", "H100", "H200", "H200")), cores=8, host_gb=512, disk_gb=999)
LARGE = REQUEST.changed(width=704, height=384, kv_cache_dtype="fp8", fp8=True, placement="tpp", processes=4)


@pytest.mark.parametrize(
    ("left", "placement", "usable_gb"),
    [
        pytest.param(3, "tpp", [78.15, 139.15, 139.15], id="the smallest count as those that are left"),
        pytest.param(1, "single", [78.15], id="one"),
    ],
)
def test_the_rest_of_a_job_is_planned_for_fewer_gpus(left: int, placement: str, usable_gb: list[float]) -> None:
    planned = plan_for_fewer(LIVE_AVATAR_14B, LARGE, FOUR, left)
    assert planned["placement"] == placement
    assert [load["usable"] for load in planned["per_gpu_gb"]] == usable_gb
    assert planned["settings"]["kv_cache_dtype"] == "fp8"


@pytest.mark.parametrize(
    ("left", "placement", "processes"), [pytest.param(3, "tpp", 3, id="three"), pytest.param(1, "single", 1, id="one")]
)
def test_gpus_of_a_machine_elsewhere_count_as_processes(
    left: int, placement: str, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[PlanRequest] = []

    def planning(model: Any, request: PlanRequest, machine: Machine) -> Any:
        asked.append(request)
        return SimpleNamespace(fits=not machine.gpus, to_dict=lambda: {"placement": request.placement})

    monkeypatch.setattr("liveavatar.planning.plan.plan", planning)
    assert plan_for_fewer(TINY, LARGE, replace(FOUR, gpus=()), left) == {"placement": placement}
    assert asked == [LARGE.changed(placement=placement, processes=processes)]


def test_a_job_that_fewer_gpus_do_not_hold_is_refused_with_the_reason() -> None:
    cards = replace(FOUR, gpus=(gpu_of("4090"),) * 4)
    with pytest.raises(CapacityError, match=r"^GPU 0 \(.*\) needs .* GB .*usable$"):
        plan_for_fewer(LIVE_AVATAR_14B, LARGE, cards, 1)
