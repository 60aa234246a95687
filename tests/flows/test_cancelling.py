"""Runs that are cancelled: by a runner that ends their process, and those of commands, which look themselves."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import FrameType, SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled, Cancelling, Completed, Running, State

from flows import cancelling
from flows.cancelling import unless_cancelled

Answers = list[State[Any] | Exception]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answers]:
    """Make the server answer with states, the last one for ever."""

    def answers(*given: State[Any] | Exception, served: bool = False) -> Answers:
        left = list(given)

        def read(run_id: str) -> FlowRun:
            assert run_id == "this"
            state = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(state, Exception):
                raise state
            return FlowRun(id=uuid4(), flow_id=uuid4(), state=state, deployment_id=uuid4() if served else None)

        monkeypatch.setattr(cancelling, "flow_run", SimpleNamespace(id="this"))
        monkeypatch.setattr(cancelling, "LOOK_SECONDS", 0.05)
        monkeypatch.setattr(cancelling, "get_client", lambda **_: nullcontext(SimpleNamespace(read_flow_run=read)))
        return left

    return answers


@pytest.fixture
def terminates() -> Iterator[None]:
    """Handle SIGTERM as Prefect does inside a flow."""

    def end(number: int, _: FrameType | None) -> None:
        raise TerminationSignal(number)

    before = signal.signal(signal.SIGTERM, end)
    yield
    signal.signal(signal.SIGTERM, before)


def ended() -> State[Any]:
    raise TerminationSignal(signal.SIGTERM)


def works(seconds: float) -> Callable[[], State[Any]]:
    def work() -> State[Any]:
        time.sleep(seconds)
        return Completed()

    return work


@pytest.mark.parametrize("state", [Cancelling(), Cancelled()], ids=["Cancelling", "Cancelled"])
def test_a_run_that_its_runner_ends_is_cancelled_and_has_not_crashed(
    answers: Callable[..., Answers], state: State[Any]
) -> None:
    answers(state, served=True)
    assert unless_cancelled(ended).name == "Cancelled"


def test_a_process_that_is_ended_for_another_reason_crashes(answers: Callable[..., Answers]) -> None:
    answers(Running())
    with pytest.raises(TerminationSignal):
        unless_cancelled(ended)


def test_a_run_of_a_command_ends_when_it_is_cancelled(answers: Callable[..., Answers], terminates: None) -> None:
    answers(Running(), httpx.ConnectError("away for a moment"), Running(), Cancelling())
    begun = time.monotonic()
    assert unless_cancelled(works(60.0)).name == "Cancelled"
    assert time.monotonic() - begun < 20


def test_a_run_with_a_runner_leaves_its_end_to_it(answers: Callable[..., Answers], terminates: None) -> None:
    answers(Cancelling(), served=True)
    assert unless_cancelled(works(0.5)).name == "Completed"


def test_nobody_looks_at_a_run_that_has_ended(answers: Callable[..., Answers], terminates: None) -> None:
    answers(Running(), Cancelling())
    assert unless_cancelled(works(0.0)).name == "Completed"
    time.sleep(0.3)  # a signal would end this test
