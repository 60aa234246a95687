"""Runs that are cancelled: by a runner that ends their process, and those of commands, which look themselves."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import FrameType, SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled, Cancelling, Completed, Running, State

from flows import cancelling
from flows.cancelling import end_with_its_part, unless_cancelled
from liveavatar.errors import Interrupted

RUN, MAKER = uuid4(), uuid4()
Answers = list[State[Any] | Exception]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answers]:
    """Make the server answer with states, the last one for ever."""

    def answers(*given: State[Any] | Exception, served: bool = False) -> Answers:
        left = list(given)

        def read(run_id: UUID) -> FlowRun:
            assert run_id == RUN
            state = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(state, Exception):
                raise state
            return FlowRun(id=uuid4(), flow_id=uuid4(), state=state, deployment_id=uuid4() if served else None)

        monkeypatch.setattr(cancelling, "flow_run", SimpleNamespace(id=str(RUN)))
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


@pytest.fixture
def made_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[State[Any]], None]:
    """Put a running run into one that is in a state, as a render is in a batch."""
    part = uuid4()

    def made_by(state: State[Any]) -> None:
        runs = {
            RUN: FlowRun(id=RUN, flow_id=uuid4(), state=Running(), parent_task_run_id=part),
            MAKER: FlowRun(id=MAKER, flow_id=uuid4(), state=state),
        }
        tasks = {part: SimpleNamespace(flow_run_id=MAKER)}
        client = SimpleNamespace(read_flow_run=runs.__getitem__, read_task_run=tasks.__getitem__)
        monkeypatch.setattr(cancelling, "get_client", lambda **_: nullcontext(client))
        monkeypatch.setattr(cancelling, "flow_run", SimpleNamespace(id=str(RUN)))

    return made_by


def interrupted() -> State[Any]:
    raise Interrupted("stopped at block 4 of 22")


@pytest.mark.parametrize("end", [ended, interrupted], ids=["in the main thread", "in a thread of a batch"])
def test_a_part_of_a_run_that_is_cancelled_is_cancelled(
    made_by: Callable[[State[Any]], None], end: Callable[[], State[Any]]
) -> None:
    made_by(Cancelling())
    assert unless_cancelled(end).name == "Cancelled"
    with pytest.raises(TerminationSignal):
        end_with_its_part()
    made_by(Running())
    with pytest.raises((TerminationSignal, Interrupted)):
        unless_cancelled(end)
    end_with_its_part()


def test_ctrl_c_is_one_when_the_server_is_gone_too(answers: Callable[..., Answers]) -> None:
    answers(httpx.ConnectError("gone"))
    with pytest.raises(Interrupted, match="block 4"):
        unless_cancelled(interrupted)


def test_outside_of_a_run_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancelling, "flow_run", SimpleNamespace(id=None))
    monkeypatch.setattr(cancelling, "get_client", lambda **_: pytest.fail("it asked"))
    end_with_its_part()
    with pytest.raises(Interrupted):
        unless_cancelled(interrupted)
