"""Name, log and final state of a run, as the Prefect UI shows them.

A run whose quality failed is Failed in Prefect, with the reasons in the message, so that automations and schedules see
what the exit code of the command says. A run with warnings is Completed under the name "Warned".
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ParamSpec, TypeVar

from flows.cancelling import end_with_its_part
from flows.run_name import made_up
from flows.serving import environment
from flows.terminal import Terminal
from liveavatar import paths
from liveavatar.errors import CapacityError, Interrupted
from tasks import events
from tasks.events import Event

environment.import_prefect()

from prefect import Flow, get_run_logger  # noqa: E402 (Prefect reads the environment when it is imported)
from prefect.runtime import flow_run  # noqa: E402
from prefect.states import Completed, Failed, State  # noqa: E402

from tasks.bookkeeping import PAUSE_SECONDS, RETURN_SECONDS  # noqa: E402

P = ParamSpec("P")
R = TypeVar("R")

WARNED = "Warned"  # name of the state of a run with warnings
UNREACHED = "Failed to reach API"  # Prefect's words
MAX_REASONS = 5
LOGGED_SHARE = 0.25  # of the blocks, between two lines of progress


def state_of(status: str, result: R, reasons: list[str], summary: str) -> State[R]:
    """Make the final state of a run from its verdict.

    Args:
        status: passed, warned or failed.
        result: what the flow returns; `result_of` gets it back whatever the state.
        reasons: what failed and what warned, the worst first.
        summary: what was made, for a run without reasons.
    """
    more = f"; and {len(reasons) - MAX_REASONS} more" if len(reasons) > MAX_REASONS else ""
    message = "; ".join(reasons[:MAX_REASONS]) + more
    if status == "failed":
        return Failed(message=f"failed: {message}", data=result)
    if status == "warned":
        return Completed(name=WARNED, message=f"warned: {message}", data=result)
    return Completed(message=f"passed: {summary}", data=result)


def worst_first(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """List the rows whose `status` is failed, then those that warned."""
    listed = list(rows)
    return [row for grade in ("failed", "warned") for row in listed if row["status"] == grade]


def verdict_state(outcome: dict[str, Any]) -> State[dict[str, Any]]:
    """Make the final state of a render from its result; see `flows.render.render`."""
    report = outcome["report"]
    reasons = [f"{check['name']}: {check['reason']}" for check in worst_first(report["checks"])]
    reasons = [*filter(None, [report.get("headline")]), *reasons]
    return state_of(outcome["status"], outcome, reasons, f"{outcome['out']}/video.mp4")


def outcome_of(flow: Flow[P, State[R]], *args: P.args, **kwargs: P.kwargs) -> R | BaseException:
    """Run a flow that ends in a state with a result; return the result whatever the verdict, or the flow's error.

    Before its first flow Prefect asks the server for its version, once. A server that is lost just then is waited for:
    another one takes its place.

    Raises:
        CapacityError: no server answers.
        TerminationSignal: the run that this is called in was cancelled.
    """
    deadline = time.monotonic() + RETURN_SECONDS
    while True:
        try:
            state: State[Any] = flow(*args, return_state=True, **kwargs)  # what the flow itself raises is in the state
            break
        except RuntimeError as e:
            if UNREACHED not in str(e):
                raise
            if time.monotonic() > deadline:
                raise CapacityError(f"the Prefect server does not answer ({e}); run it again") from e
            time.sleep(PAUSE_SECONDS)
    if state.is_cancelled():
        end_with_its_part()
        return Interrupted(f"{state.message}; the same command with --resume goes on")
    outcome: R | BaseException = state.result(raise_on_failure=False)
    return outcome


def result_of(flow: Flow[P, State[R]], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a flow that ends in a state with a result; return the result whatever the verdict.

    Raises:
        BaseException: what the flow raised.
    """
    outcome = outcome_of(flow, *args, **kwargs)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def named(describe: Callable[[dict[str, Any]], str]) -> Callable[[], str]:
    """Make the naming function of a flow: `describe` of its parameters, unless the user has named the run."""

    def name() -> str:
        given = str(flow_run.name or "")
        return describe(flow_run.parameters) if not given or made_up(given) else given

    return name


@contextmanager
def run_log() -> Iterator[None]:
    """Write the events of a run to its log in Prefect: stages, facts, notes, and a line each quarter of the blocks.

    A run of `liveavatar serve` also writes them as JSON to standard error, where `LIVEAVATAR_LOG` says so.
    """
    log = get_run_logger()
    alone = paths.log_format() == "json" and not events.is_heard()  # a command has its terminal
    logged = 0

    def write(event: Event) -> None:
        nonlocal logged
        if event.kind == "begin":
            logged = 0
            log.info("%s: begins", event.stage)
        elif event.kind == "end":
            log.info("%s: %s", event.stage, "cached" if event.cached else f"ended after {event.text}")
        elif event.kind == "progress":
            if event.done == event.total or event.done >= logged + LOGGED_SHARE * event.total:
                logged = event.done
                log.info("%s: block %d/%d, %.1f frames/s", event.stage, event.done, event.total, event.fps)
        else:
            log.info("%s: %s", event.stage, event.text)

    with Terminal() if alone else nullcontext(), events.listening(write):
        yield
