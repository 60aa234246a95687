"""A render's options and plan: where it is placed, by how many processes, and whether the store has it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows import render
from flows.parameters import RenderParameters
from liveavatar import paths
from liveavatar.config import LIVE_AVATAR_14B, MINI, ModelConfig
from liveavatar.errors import CapacityError
from liveavatar.hardware import Machine, gpu_of
from tasks.inputs import InputFile, JobInputs
from tasks.store.store import Store

INPUTS = JobInputs(image=InputFile(path=Path("i"), sha256="1" * 64), audio=InputFile(path=Path("a"), sha256="2" * 64))


def form(**changes: Any) -> RenderParameters:
    return RenderParameters.model_validate({"audio": "a", "image": "i", "prompt": "p", **changes})


@pytest.mark.parametrize(
    ("model", "changes", "gpus", "loads"),
    [
        pytest.param(LIVE_AVATAR_14B, {}, ("H200", "H200"), False, id="the plan decides"),
        pytest.param(LIVE_AVATAR_14B, {"placement": "single"}, ("H200", "H200"), True, id="one GPU is asked for"),
        pytest.param(LIVE_AVATAR_14B, {"placement": "tpp"}, ("H200", "H200"), False, id="which layers is open"),
        pytest.param(LIVE_AVATAR_14B, {"placement": "tpp"}, ("H200",) * 5, False, id="who decodes is open"),
        pytest.param(MINI, {"placement": "tpp"}, ("H200", "H200"), True, id="a small model on all that are asked for"),
        pytest.param(LIVE_AVATAR_14B, {"offload_model": True}, ("H200", "H200"), True, id="offload needs one"),
        pytest.param(LIVE_AVATAR_14B, {"num_gpus": 1}, ("H200", "H200"), True, id="one may be used"),
        pytest.param(LIVE_AVATAR_14B, {}, ("H200",), True, id="one is here"),
        pytest.param(MINI, {}, ("H200", "H200"), True, id="a small model"),
        pytest.param(MINI, {}, (), True, id="a CPU"),
    ],
)
def test_an_engine_is_loaded_early_when_its_gpus_are_known(
    model: ModelConfig,
    changes: dict[str, Any],
    gpus: tuple[str, ...],
    loads: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loading: list[Any] = []
    monkeypatch.setattr(render.machine, "accelerators", lambda: gpus)
    monkeypatch.setattr(render, "resolve_model_dir", lambda _: tmp_path)
    monkeypatch.setattr(render, "read_config", lambda _: model)
    monkeypatch.setattr(render.engine, "begin_loading", lambda folder, options: loading.append(options))
    render.begin(form(**changes))
    assert bool(loading) == loads


@pytest.mark.parametrize(
    ("changes", "gpus", "planned", "ranks", "own_decoder"),
    [
        pytest.param({}, (), None, 1, False, id="one process"),
        pytest.param({"placement": "tpp"}, (), None, 2, False, id="two on a CPU"),
        pytest.param({"placement": "tpp", "num_gpus": 4}, (), None, 4, False, id="as many as asked"),
        pytest.param({"placement": "tpp"}, ("H200",) * 8, None, 5, True, id="no more than steps and a decoder"),
        pytest.param({"placement": "tpp"}, ("H200",) * 8, (3, False), 3, False, id="as many as planned"),
        pytest.param({"placement": "tpp", "num_gpus": 3}, (), (0, False), 3, False, id="a plan without GPUs"),
        pytest.param({"placement": "tpp"}, ("H200",) * 4, (2, True), 2, True, id="no room beside the decoder"),
    ],
)
def test_a_job_has_as_many_processes_as_are_busy(
    changes: dict[str, Any],
    gpus: tuple[str, ...],
    planned: tuple[int, bool] | None,
    ranks: int,
    own_decoder: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(render.machine, "accelerators", lambda: gpus)
    plan: dict[str, Any] | None = None
    if planned is not None:
        plan = {
            "placement": "tpp",
            "per_gpu_gb": [{}] * planned[0],
            "own_decoder": planned[1],
            "layers": [],
            "rings_on_host": False,
            "settings": {},
        }
    options = render.options_of(form(**changes), plan)
    assert (options.ranks, options.own_decoder) == (ranks, own_decoder)


def test_a_plan_for_one_process_overrules_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render.machine, "accelerators", lambda: ("H200", "H200"))
    plan = {"placement": "single", "per_gpu_gb": ["a"], "own_decoder": False, "layers": [], "rings_on_host": True}
    plan["settings"] = {"kv_cache_dtype": "fp8"}
    options = render.options_of(form(placement="tpp"), plan)
    assert options.ranks == 1
    assert options.settings.kv_cache_dtype == "fp8"
    assert options.rings_on_host


def test_without_a_plan_rings_stay_where_they_are() -> None:
    assert not render.options_of(form(offload_model=True)).rings_on_host


@pytest.mark.parametrize(
    ("placement", "left", "ranks"),
    [
        pytest.param("tpp", 3, 3, id="three"),
        pytest.param("tpp", 1, 1, id="one"),
        pytest.param("auto", 1, 1, id="one, and the placement was open"),
    ],
)
def test_a_render_that_loses_gpus_keeps_its_settings(
    placement: str, left: int, ranks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = (gpu_of("H200"),) * 4
    machine = Machine(gpus=gpus, cores=8, host_gb=900, disk_gb=900)
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    monkeypatch.setattr(render.machine, "accelerators", lambda: ("H200",) * 4)
    monkeypatch.setattr(render.preflight, "machine_of", lambda _: machine)
    monkeypatch.setattr(render.plan, "plan", render.plan.plan.fn)
    planned = render.plan_render(form(placement=placement, sample_steps=4), LIVE_AVATAR_14B, (704, 384), 480)
    fewer = planned.options_for_fewer(left)
    assert planned.options.ranks == 4
    assert fewer == replace(planned.options, ranks=ranks, own_decoder=False)
    assert fewer.settings.kv_cache_dtype != "auto"


def test_a_run_is_remembered_until_an_option_or_an_input_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    asked = form(model=str(paths.MINI_DIR))
    assert not render.remembers(asked, INPUTS)
    Store().build("run", render.run_key(asked, INPUTS).digest, lambda _: {})
    assert render.remembers(asked, INPUTS)
    assert render.remembers(asked.model_copy(update={"out": "elsewhere"}), INPUTS)
    assert not render.remembers(asked.model_copy(update={"force": True}), INPUTS)
    assert not render.remembers(asked.model_copy(update={"seed": 421}), INPUTS)
    assert not render.remembers(asked, replace(INPUTS, pose=InputFile(path=Path("p"), sha256="3" * 64)))


RESULT = {"out": "out/a", "status": "passed", "report": {}}


def losing_server(results: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make render flows that give these results before the Prefect server is lost."""

    def make(inputs: object, on_result: Callable[[dict[str, object]], None]) -> Callable[[object], None]:
        def flow(parameters: object, *, return_state: bool) -> None:
            assert return_state
            for result in results:
                on_result(result)
            raise httpx.ConnectError("refused")

        return flow

    monkeypatch.setattr(render, "render_flow", make)


def test_a_server_that_is_lost_at_the_end_costs_no_result(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    losing_server([RESULT], monkeypatch)
    assert render.run_render(form(), INPUTS) == RESULT
    assert [r.getMessage() for r in caplog.records] == [
        "the Prefect server is gone (refused); its record of this run stays incomplete"
    ]


def test_a_server_that_is_lost_before_a_result_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    losing_server([], monkeypatch)
    with pytest.raises(CapacityError, match=r"does not answer \(refused\); start it, or unset PREFECT_API_URL"):
        render.run_render(form(), INPUTS)
