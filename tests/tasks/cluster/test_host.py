"""The host of an engine: one actor, or a group where the spec has several ranks."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from liveavatar.errors import CapacityError
from tasks.cluster import head, host
from tasks.cluster.actor import EngineSpec
from tasks.cluster.gpus import GpusLeft
from tasks.cluster.host import EngineHost
from tasks.cluster.replicas import NoGpuLeft


class FakeActor:
    """An actor that is asked to load."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name, self.load = log, name, self

    def remote(self) -> None:
        self.log.append(f"{self.name} loads")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []
    monkeypatch.setattr(head.SESSION, "connect", lambda: made.append("connected") or "127.0.0.1:1")  # type: ignore[func-returns-value]
    monkeypatch.setattr(host, "on_gpus", lambda spec: False)
    monkeypatch.setattr(host, "engine_actor", lambda spec: FakeActor(made, "engine"))
    monkeypatch.setattr(host, "group_actors", lambda spec: [FakeActor(made, f"rank {r}") for r in range(spec.ranks)])
    monkeypatch.setattr(host, "ActorCalls", lambda spec, head: ("actor", spec, head))
    monkeypatch.setattr(host, "GroupCalls", lambda spec, head: ("group", spec, head))
    return made


def spec(ranks: int) -> EngineSpec:
    return EngineSpec(model_dir=Path("m"), version="v", ranks=ranks, limit_s=7.0)


@pytest.mark.parametrize(("ranks", "loads"), [(1, ["engine loads"]), (3, [f"rank {rank} loads" for rank in range(3)])])
def test_every_process_begins_to_load_once_ray_is_there(ranks: int, loads: list[str], log: list[str]) -> None:
    EngineHost(spec(ranks)).begin_loading()
    assert log == ["connected", *loads]


def test_a_head_that_is_lost_while_processes_begin_to_load_is_left_to_the_render(
    log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head.SESSION, "lost_process", lambda: "gcs_server")
    EngineHost(spec(1)).begin_loading()
    assert log == ["connected"]


@pytest.mark.parametrize(("ranks", "kind"), [(1, "actor"), (2, "group")])
def test_a_job_is_supervised_on_the_calls_of_its_kind(
    ranks: int, kind: str, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def supervise(start: Any, watch: Any, *rest: Any) -> str:
        given.extend((start(), watch, *rest))
        return "result"

    monkeypatch.setattr(host, "supervise", supervise)
    job, note, loaded = object(), object(), object()
    assert EngineHost(spec(ranks)).render(job, note, loaded) == "result"  # type: ignore[arg-type, comparison-overlap]
    (made, own, watched), watch, *rest = given[0], given[1], *given[2:]
    assert (made, own) == (kind, spec(ranks))
    assert watched is watch, "the calls watch the head that the supervision watches"
    assert rest == [job, 7.0, note, loaded]


@dataclass
class Gpus:
    """The GPUs of a cluster, counted by a script, and the plans that are asked for."""

    left: GpusLeft = field(default_factory=lambda: GpusLeft(2))
    held: bool = False
    refusal: str = ""
    looks: list[str] = field(default_factory=list)
    planned: list[int] = field(default_factory=list)

    def look(self, own: str) -> GpusLeft:
        self.looks.append(own)
        return self.left

    def replan(self, num_gpus: int) -> EngineSpec:
        self.planned.append(num_gpus)
        if self.refusal:
            raise CapacityError(self.refusal)
        return replace(spec(3), ranks=num_gpus)


@pytest.fixture
def gpus(log: list[str], monkeypatch: pytest.MonkeyPatch) -> Gpus:
    counted = Gpus()
    monkeypatch.setattr(host, "on_gpus", lambda spec: True)
    monkeypatch.setattr(host, "any_held", lambda: counted.held)
    monkeypatch.setattr(host, "look", counted.look)
    return counted


def starts(engine: EngineHost, number: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Start an engine several times, as after losses: kinds of the calls and ranks."""
    made: list[tuple[str, int]] = []

    def supervise(start: Any, *_: Any) -> None:
        made.extend((kind, own.ranks) for kind, own, _ in (start() for _ in range(number)))

    monkeypatch.setattr(host, "supervise", supervise)
    engine.render(object(), print, print)  # type: ignore[arg-type]
    return made


GROUP, ENGINE = "group-v-auto-auto-3-", "engine-v-auto-auto"


@pytest.mark.parametrize(
    ("ranks", "left", "made", "looks", "planned"),
    [
        pytest.param(3, 3, [("group", 3)] * 3, [GROUP, GROUP], [], id="a process was lost, no GPU"),
        pytest.param(3, 7, [("group", 3)] * 3, [GROUP, GROUP], [], id="others are left"),
        pytest.param(3, 2, [("group", 3), ("group", 2), ("group", 2)], [GROUP, "group-v-auto-auto-2-"], [2],
                     id="fewer"),
        pytest.param(3, 1, [("group", 3), ("actor", 1), ("actor", 1)], [GROUP, ENGINE], [1], id="one"),
        pytest.param(1, 1, [("actor", 1)] * 3, [ENGINE, ENGINE], [], id="an engine moves to another"),
    ],
)  # fmt: skip
def test_after_a_loss_a_job_goes_on_with_the_gpus_that_are_left(
    ranks: int,
    left: int,
    made: list[tuple[str, int]],
    looks: list[str],
    planned: list[int],
    gpus: Gpus,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gpus.left = GpusLeft(left, ("GPU 1",), ("GPU 0",))
    with caplog.at_level(logging.WARNING):
        assert starts(EngineHost(spec(ranks), gpus.replan), 3, monkeypatch) == made
    assert (gpus.looks, gpus.planned) == (looks, planned)
    told = [f"{gpus.left}; planned for {ranks}, the job goes on with {left}"] * len(planned)
    assert [record.getMessage() for record in caplog.records] == told


def test_a_gpu_that_an_earlier_job_has_lost_is_known_at_the_start(
    gpus: Gpus, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus.held = True
    EngineHost(spec(3)).begin_loading()
    assert log == ["connected"], "only the plan of a job tells how many ranks are left"
    assert starts(EngineHost(spec(3), gpus.replan), 1, monkeypatch) == [("group", 2)]
    assert gpus.looks == [""], "a resident engine stays"


@pytest.mark.parametrize(
    ("left", "refusal", "planned", "words"),
    [
        pytest.param(0, "", [], "no GPU is left, GPU 0 cannot be used; .*--resume", id="0"),
        pytest.param(2, "GPU 0 needs 30 GB", [2], "2 GPUs are left .*, too few for this job: GPU 0 needs 30 GB; ",
                     id="too small"),
    ],
)  # fmt: skip
def test_a_job_that_does_not_fit_the_gpus_that_are_left_can_be_resumed(
    left: int, refusal: str, planned: list[int], words: str, gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus.left, gpus.refusal = GpusLeft(left, ("GPU 1", "GPU 2")[:left], ("GPU 0",)), refusal
    with pytest.raises(CapacityError, match=words):
        starts(EngineHost(spec(3), gpus.replan), 2, monkeypatch)
    assert gpus.planned == planned


def test_an_engine_whose_gpu_is_lost_while_others_render_says_so(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus.left = GpusLeft(0, (), ("GPU 0",), busy=1)
    with pytest.raises(NoGpuLeft, match="no GPU is left, GPU 0 cannot be used, 1 is busy with another job; run"):
        starts(EngineHost(spec(1), gpus.replan), 2, monkeypatch)
    assert not gpus.planned


def test_nothing_plans_anew_for_an_engine_without_a_plan(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CapacityError, match="2 GPUs are left, and the job takes 3; run"):
        starts(EngineHost(spec(3)), 2, monkeypatch)


def test_processes_on_a_cpu_are_not_counted(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "on_gpus", lambda spec: False)
    assert starts(EngineHost(spec(3), gpus.replan), 3, monkeypatch) == [("group", 3)] * 3
    assert not gpus.looks
