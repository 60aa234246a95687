"""The host of an engine: one actor, or a group where the spec has several ranks."""

from pathlib import Path
from typing import Any

import pytest

from tasks.cluster import head, host
from tasks.cluster.actor import EngineSpec
from tasks.cluster.host import EngineHost


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
