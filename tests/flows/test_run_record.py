"""Name, log and final state of a run, as the Prefect UI shows them."""

import logging
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled, Completed, State

from flows import run_record
from flows.batch import batch_state
from flows.parameters import RenderParameters
from flows.regression import regression_state
from flows.run_name import render_name
from flows.run_record import named, outcome_of, result_of, run_log, state_of, verdict_state
from liveavatar.errors import CapacityError, InputError, Interrupted
from tasks.events import Event, emit, listening


def row(status: str, exit_code: int, reason: str = "") -> dict[str, Any]:
    return {"job": 3, "out": "out/b/3", "status": status, "exit_code": exit_code, "reason": reason}


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        pytest.param(
            state_of("passed", 1, [], "8 renders"), ("COMPLETED", "Completed", "passed: 8 renders"), id="passed"
        ),
        pytest.param(state_of("warned", 1, ["a", "b"], ""), ("COMPLETED", "Warned", "warned: a; b"), id="warned"),
        pytest.param(state_of("failed", 1, ["a"], ""), ("FAILED", "Failed", "failed: a"), id="failed"),
        pytest.param(
            state_of("failed", 1, list("abcdefg"), ""),
            ("FAILED", "Failed", "failed: a; b; c; d; e; and 2 more"),
            id="many reasons",
        ),
        pytest.param(
            batch_state([row("passed", 0), row("refused", 2, "no sound"), row("crashed", 5, "a fault")]),
            ("FAILED", "Failed", "failed: job 4 crashed: a fault; job 4 refused: no sound"),
            id="batch with refused jobs",
        ),
        pytest.param(
            batch_state([row("passed", 0), row("warned", 0)]),
            ("COMPLETED", "Warned", "warned: job 4 warned"),
            id="batch with a warning",
        ),
        pytest.param(
            batch_state([row("passed", 0)]), ("COMPLETED", "Completed", "passed: 1 jobs in out/b"), id="batch"
        ),
        pytest.param(
            regression_state([{"job": "a", "name": "latents", "passed": False, "detail": "differ"}]),
            ("FAILED", "Failed", "failed: a: latents: differ"),
            id="regression that differs",
        ),
        pytest.param(
            regression_state([{"job": "a", "name": "latents", "passed": True, "detail": "equal"}]),
            ("COMPLETED", "Completed", "passed: 1 comparisons"),
            id="regression",
        ),
    ],
)
def test_a_verdict_is_a_state(state: State[Any], expected: tuple[str, str, str]) -> None:
    assert (state.type.value, state.name, state.message) == expected


def test_the_state_of_a_render_names_what_failed_first() -> None:
    checks = [
        {"name": "flicker", "status": "warned", "reason": "0.05 is over 0.04"},
        {"name": "lip_sync", "status": "passed", "reason": ""},
        {"name": "sync", "status": "failed", "reason": "3 frames late"},
    ]
    outcome = {"out": "out/a", "status": "failed", "report": {"checks": checks}}
    state = verdict_state(outcome)
    assert state.message == "failed: sync: 3 frames late; flicker: 0.05 is over 0.04"
    assert state.data is outcome


class FlowThatEnds:
    """A flow in a given state."""

    def __init__(self, state: State[Any]) -> None:
        self.state = state

    def __call__(self, *_: Any, return_state: bool) -> State[Any]:
        assert return_state
        return self.state


@pytest.mark.parametrize("status", ["passed", "warned", "failed"])
def test_the_result_comes_whatever_the_verdict(status: str) -> None:
    flow: Any = FlowThatEnds(state_of(status, {"out": "a"}, ["why"], ""))
    assert result_of(flow) == {"out": "a"}


def test_the_error_of_a_flow_is_raised() -> None:
    flow: Any = FlowThatEnds(Completed(data=InputError("no such file")))
    assert str(outcome_of(flow)) == "no such file"
    with pytest.raises(InputError, match="no such file"):
        result_of(flow)


JOB = {"audio": "in/anna 1.wav", "image": "/p/face.png", "prompt": "p"}


@pytest.mark.parametrize(
    ("given", "job", "name"),
    [
        pytest.param("gifted-peacock", JOB, "anna 1-face-420", id="a name that Prefect made up"),
        pytest.param("", {**JOB, "seed": 7}, "anna 1-face-7", id="no name"),
        pytest.param("Monday's trailer", JOB, "Monday's trailer", id="a name of the user's"),
        pytest.param("morning-news", JOB, "morning-news", id="two words of the user's"),
        pytest.param("beta-launch", JOB, "beta-launch", id="a Greek letter that is a word"),
        pytest.param("anna-peacock", JOB, "anna-peacock", id="an animal of Prefect's behind another word"),
        pytest.param("beta2-konishi", JOB, "anna 1-face-420", id="a numbered letter of the form"),
        pytest.param("mu2-minnobia-x", JOB, "anna 1-face-420", id="a name that the form of the UI made up"),
        pytest.param("sigma3-konishi", {"what": JOB}, "anna 1-face-420", id="options in groups"),
        pytest.param("", {**JOB, "audio": "studio:anna.wav"}, "anna-face-420", id="a file of the studio page"),
        pytest.param("gifted-peacock", RenderParameters(**{**JOB, "audio": "-"}), "pipe-face-420", id="a pipe"),
        pytest.param("gifted-peacock", {**JOB, "audio": "x" * 300}, "x" * 40 + "-face-420", id="a long name"),
    ],
)
def test_a_run_is_named_by_its_inputs(given: str, job: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_record, "flow_run", SimpleNamespace(name=given, parameters={"parameters": job}))
    assert named(render_name)() == name


def test_the_log_of_a_run_holds_its_stages_and_facts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_record, "get_run_logger", lambda: logging.getLogger("run"))
    caplog.set_level(logging.INFO, "run")
    with run_log():
        emit(Event(kind="begin", stage="enhance"))
        emit(Event(kind="fact", stage="enhance", text="heard (en): good morning"))
        emit(Event(kind="end", stage="enhance", text="1.2 s"))
        emit(Event(kind="begin", stage="render"))
        for done in range(1, 21):
            emit(Event(kind="progress", stage="render", done=done, total=20, fps=25.0))
        emit(Event(kind="end", stage="render", cached=True))
    emit(Event(kind="note", stage="render", text="of another run"))
    assert [record.getMessage() for record in caplog.records] == [
        "enhance: begins",
        "enhance: heard (en): good morning",
        "enhance: ended after 1.2 s",
        "render: begins",
        *(f"render: block {done}/20, 25.0 frames/s" for done in (5, 10, 15, 20)),
        "render: cached",
    ]


@pytest.mark.parametrize(("commanded", "lines"), [(False, 1), (True, 0)])
def test_a_run_of_serve_also_writes_json(
    commanded: bool, lines: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEAVATAR_LOG", "json")
    monkeypatch.setattr(run_record, "get_run_logger", lambda: logging.getLogger("run"))
    terminal: list[Event] = []
    with listening(terminal.append) if commanded else nullcontext(), run_log():
        emit(Event(kind="note", stage="render", text="live"))
    assert capsys.readouterr().err.count('"message": "render: live"') == lines


@pytest.mark.parametrize("failures", [2, 10**9])
def test_a_server_that_is_lost_before_the_first_flow_is_waited_for(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, clock = iter(range(10**9)), iter(range(10**9))

    def flow(number: int, *, return_state: bool) -> State[int]:
        if next(calls) < failures:
            raise RuntimeError("Failed to reach API at http://127.0.0.1:1/api/")
        return Completed(data=number)

    monkeypatch.setattr(run_record, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None))
    if failures == 2:
        assert outcome_of(flow, 7) == 7  # type: ignore[arg-type]
    else:
        with pytest.raises(CapacityError, match="the Prefect server does not answer"):
            outcome_of(flow, 7)  # type: ignore[arg-type]


def test_other_errors_before_a_flow_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def flow(*, return_state: bool) -> State[int]:
        raise RuntimeError("Found incompatible versions")

    with pytest.raises(RuntimeError, match="incompatible"):
        outcome_of(flow)  # type: ignore[arg-type]


def test_a_cancelled_run_is_interrupted_and_says_how_to_go_on() -> None:
    outcome = outcome_of(lambda **_: Cancelled(message="it was cancelled"))  # type: ignore[arg-type, return-value]
    assert isinstance(outcome, Interrupted)
    assert str(outcome) == "it was cancelled; the same command with --resume goes on"


def test_a_run_whose_part_was_cancelled_with_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def end_with_its_part() -> None:
        raise TerminationSignal(15)

    monkeypatch.setattr(run_record, "end_with_its_part", end_with_its_part)
    with pytest.raises(TerminationSignal):
        outcome_of(lambda **_: Cancelled(message="it was cancelled"))  # type: ignore[arg-type, return-value]
