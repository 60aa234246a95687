"""Runs that somebody cancels, in the Prefect UI or on the studio page.

The runner of `liveavatar serve` ends the process of a cancelled run of a deployment. A run of a command has no runner:
it looks at its state itself. Either way the process gets SIGTERM, and the run ends as Cancelled. When a run is
cancelled that makes others (a batch, a sweep, a regression), the one that it is just making ends as Cancelled, too.
"""

import logging
import signal
import threading
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

import httpx

from flows.serving import environment
from liveavatar.errors import Interrupted

environment.import_prefect()

from prefect.client.orchestration import get_client  # noqa: E402 (Prefect reads the environment when it is imported)
from prefect.client.schemas.objects import FlowRun  # noqa: E402
from prefect.exceptions import PrefectException, TerminationSignal  # noqa: E402
from prefect.runtime import flow_run  # noqa: E402
from prefect.states import Cancelled, State  # noqa: E402

log = logging.getLogger(__name__)

R = TypeVar("R")

UNREAD = (PrefectException, httpx.HTTPError, OSError)
LOOK_SECONDS = 2.0  # between two looks of a run at its state


def unless_cancelled(make: Callable[[], State[R]]) -> State[R]:
    """Return the state that `make` returns, or Cancelled when this run was cancelled meanwhile.

    Prefect by itself takes a run for crashed whose process had another handler of SIGTERM, as it has during calls of
    Ray; its runner corrects that seconds later, when automations have been told of a crash.

    Raises:
        TerminationSignal, Interrupted: the process, or its job, was ended for another reason.
    """
    if flow_run.id is None:  # a flow's function outside of a run
        return make()
    run_id, ended = str(flow_run.id), threading.Event()
    if threading.current_thread() is threading.main_thread():
        threading.Thread(target=_watch, args=(run_id, ended), daemon=True, name="cancelling").start()
    try:
        return make()
    except (TerminationSignal, Interrupted):
        if not _is_cancelled(run_id):
            raise
        return Cancelled(message="it was cancelled")
    finally:
        ended.set()


def end_with_its_part() -> None:
    """Call it when a run that this one makes was cancelled: it ends this one, too, where that was the reason.

    Raises:
        TerminationSignal: this run, or one that makes it, was cancelled.
    """
    run_id = flow_run.id
    if run_id is not None and _is_cancelled(str(run_id)):
        raise TerminationSignal(signal.SIGTERM)


def _watch(run_id: str, ended: threading.Event) -> None:
    """End what the main thread does once the run is cancelled that it makes, unless a runner does so."""
    while not ended.wait(LOOK_SECONDS):
        try:
            with get_client(sync_client=True) as client:
                run = client.read_flow_run(UUID(run_id))
        except UNREAD as e:
            log.debug("the state of this run was not read: %s", e)
            continue
        if run.deployment_id is not None:
            return
        if _is_ending(run) and not ended.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            return


def _is_cancelled(run_id: str | None) -> bool:
    """Tell if a run, or one of those that make it, was cancelled; a server that does not answer has heard of none."""
    try:
        with get_client(sync_client=True) as client:
            while run_id is not None:
                run = client.read_flow_run(UUID(run_id))
                if _is_ending(run):
                    return True
                task_run_id = run.parent_task_run_id
                maker = None if task_run_id is None else client.read_task_run(task_run_id).flow_run_id
                run_id = None if maker is None else str(maker)
    except UNREAD as e:
        log.debug("the state of this run was not read: %s", e)
    return False


def _is_ending(run: FlowRun) -> bool:
    return run.state is not None and (run.state.is_cancelling() or run.state.is_cancelled())
