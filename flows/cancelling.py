"""Runs that somebody cancels, in the Prefect UI or on the studio page.

The runner of `liveavatar serve` ends the process of a cancelled run of a deployment. A run of a command has no runner:
it looks at its state itself. Either way the process gets SIGTERM, and the run ends as Cancelled.
"""

import logging
import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import httpx

from flows.serving import environment

environment.import_prefect()

from prefect.client.orchestration import get_client  # noqa: E402 (Prefect reads the environment when it is imported)
from prefect.client.schemas.objects import FlowRun  # noqa: E402
from prefect.exceptions import PrefectException, TerminationSignal  # noqa: E402
from prefect.runtime import flow_run  # noqa: E402
from prefect.states import Cancelled, State  # noqa: E402

log = logging.getLogger(__name__)

R = TypeVar("R")

LOOK_SECONDS = 2.0  # between two looks of a run at its state


def unless_cancelled(make: Callable[[], State[R]]) -> State[R]:
    """Return the state that `make` returns, or Cancelled when this run was cancelled meanwhile.

    Prefect by itself takes a run for crashed whose process had another handler of SIGTERM, as it has during calls of
    Ray; its runner corrects that seconds later, when automations have been told of a crash.

    Raises:
        TerminationSignal: the process was ended for another reason.
    """
    run_id, ended = str(flow_run.id), threading.Event()
    if threading.current_thread() is threading.main_thread():
        threading.Thread(target=_watch, args=(run_id, ended), daemon=True, name="cancelling").start()
    try:
        return make()
    except TerminationSignal:
        if not _is_cancelled(_read(run_id)):
            raise
        return Cancelled(message="it was cancelled")
    finally:
        ended.set()


def _watch(run_id: str, ended: threading.Event) -> None:
    """End what the main thread does once the run is cancelled that it makes, unless a runner does so."""
    while not ended.wait(LOOK_SECONDS):
        try:
            run = _read(run_id)
        except (PrefectException, httpx.HTTPError, OSError) as e:
            log.debug("the state of this run was not read: %s", e)
            continue
        if run.deployment_id is not None:
            return
        if _is_cancelled(run) and not ended.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            return


def _read(run_id: Any) -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run_id)


def _is_cancelled(run: FlowRun) -> bool:
    return run.state is not None and (run.state.is_cancelling() or run.state.is_cancelled())
