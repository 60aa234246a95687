"""Runs whose process is gone, by `kill -9` or a power cut: no run stays Running in Prefect.

Each run of a command or of a deployment leaves a note with its process. The next command, and `liveavatar serve` every
few seconds, reads the notes of processes that have gone. A run of a deployment is scheduled again and continues at
its last snapshot; a run of a command is set to Crashed, and its message says how to go on.
"""

import logging
import socket
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from flows.serving import environment
from flows.serving.process_record import own_process, process_of
from liveavatar import paths
from liveavatar.files import read_json, write_json

environment.import_prefect()

from prefect import Flow  # noqa: E402 (Prefect reads the environment when it is imported)
from prefect.client.orchestration import SyncPrefectClient, get_client  # noqa: E402
from prefect.client.schemas import filters  # noqa: E402
from prefect.client.schemas.objects import FlowRun, State, StateType  # noqa: E402
from prefect.exceptions import PrefectException  # noqa: E402
from prefect.states import Cancelled, Crashed, Scheduled  # noqa: E402

log = logging.getLogger(__name__)

RESUMING = "Resuming"  # name of the state of a lost run that is scheduled again
AT_WORK = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
OURS = ["render", "render-pipe", "batch", "sweep", "sweep-evaluation", "regression"]
MAX_STARTS = 3  # of a run that loses its process each time
LOOK_SECONDS = 10.0  # between two looks of `serve`
UNKNOWN_SECONDS = 300.0  # after which a run of our own server that has no note counts as lost
KEPT_DAYS = 30.0  # a note whose run its server does not know
ASKED = 200  # runs in one request; Prefect's limit
WAY = "the same command with --resume, or the form with `resume` on, continues at the last snapshot"
CONTINUES = "it continues at its last snapshot"
LOST = "the process of this run is gone (kill -9, or the machine went down)"


def note_run(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Note which process a run belongs to; a hook of flows, called when a run begins."""
    if flow_run.parent_task_run_id is None:  # a part of a batch or a sweep is found through the whole
        write_json(_note(flow_run.id), {**own_process(), "host": socket.gethostname()})


def settle(*, unknown: bool = False) -> list[str]:
    """Give every lost run of this machine its state; return a line for each.

    Args:
        unknown: also runs of our own server that have been at work for long and have no note.
    """
    lost = {note.stem: note for note in _notes().glob("*.json") if _is_lost(note)}
    if not lost and not unknown:
        return []
    lines: list[str] = []
    with get_client(sync_client=True) as client:
        runs = _read(client, list(lost))
        if unknown:
            known = {note.stem for note in _notes().glob("*.json")}
            runs += [run for run in _at_work(client) if str(run.id) not in known]
        for run in runs:
            lines += _settled(client, run)
            _note(run.id).unlink(missing_ok=True)
    found = {str(run.id) for run in runs}
    for name, note in lost.items():
        if name not in found and time.time() - note.stat().st_mtime > KEPT_DAYS * 86_400:
            note.unlink(missing_ok=True)
    return lines


def settle_quietly(*, unknown: bool = False) -> None:
    """Do as `settle` does and log its lines; a server that does not answer changes nothing."""
    try:
        for line in settle(unknown=unknown):
            log.warning("%s", line)
    except (PrefectException, httpx.HTTPError, OSError) as e:
        log.debug("lost runs were not looked for: %s", e)


class Watch:
    """Context manager of `liveavatar serve`: inside it, lost runs get their state within seconds."""

    def __init__(self, *, unknown: bool) -> None:
        self._unknown = unknown  # as `settle` takes it
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True, name="lost-runs")

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _look(self) -> None:
        while True:
            settle_quietly(unknown=self._unknown)
            if self._ending.wait(LOOK_SECONDS):
                return


def _notes() -> Path:
    return paths.run() / "flows"


def _note(run_id: UUID) -> Path:
    return _notes() / f"{run_id}.json"


def _is_lost(note: Path) -> bool:
    try:
        return bool(read_json(note)["host"] == socket.gethostname()) and process_of(note) is None
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _read(client: SyncPrefectClient, ids: list[str]) -> list[FlowRun]:
    parts = (ids[start : start + ASKED] for start in range(0, len(ids), ASKED))
    return [
        run
        for part in parts
        for run in client.read_flow_runs(
            flow_run_filter=filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[UUID(name) for name in part]))
        )
    ]


def _at_work(client: SyncPrefectClient) -> Iterable[FlowRun]:
    """List the runs of our flows that have been at work for long, parts of other runs aside."""
    runs = client.read_flow_runs(
        flow_filter=filters.FlowFilter(name=filters.FlowFilterName(any_=OURS)),
        flow_run_filter=filters.FlowRunFilter(
            state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=AT_WORK))
        ),
        limit=ASKED,
    )
    before = datetime.now(UTC) - timedelta(seconds=UNKNOWN_SECONDS)
    return [run for run in runs if run.parent_task_run_id is None and run.state and run.state.timestamp < before]


def _settled(client: SyncPrefectClient, run: FlowRun) -> list[str]:
    """Give a lost run its state; return the line about it, none when it had ended well."""
    new: State[Any]
    state = run.state
    if state is None or (state.is_final() and not state.is_crashed()):
        return []
    if state.is_crashed():  # by itself, or by the runner of its deployment: it saw only an exit code
        message = state.message or LOST
        if WAY in message:
            return []
        new = Crashed(message=f"{message.rstrip('. ')}; {WAY}")
    elif state.type == StateType.CANCELLING:
        new = Cancelled(message=LOST)
    elif run.deployment_id is not None and run.run_count < MAX_STARTS:
        new = _resuming(client, run, f"{LOST}; {CONTINUES}")
    else:
        new = Crashed(message=f"{LOST}; {WAY}")
    _end_parts(client, run)
    client.set_flow_run_state(run.id, new, force=True)
    return [f"run {run.name}: {new.message}"]


def _end_parts(client: SyncPrefectClient, run: FlowRun) -> None:
    """Set the stages of a lost run, and the renders of a lost batch or sweep, to Crashed."""
    running = filters.FlowRunFilterStateType(any_=AT_WORK)
    parts = client.read_flow_runs(
        flow_run_filter=filters.FlowRunFilter(
            parent_flow_run_id=filters.FlowRunFilterParentFlowRunId(any_=[run.id]),
            state=filters.FlowRunFilterState(type=running),
        )
    )
    for part in parts:
        client.set_flow_run_state(part.id, Crashed(message=f"{LOST}; it was a part of {run.name}"), force=True)
    tasks = client.read_task_runs(
        flow_run_filter=filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[run.id, *(part.id for part in parts)])),
        task_run_filter=filters.TaskRunFilter(
            state=filters.TaskRunFilterState(type=filters.TaskRunFilterStateType(any_=AT_WORK))
        ),
    )
    for task in tasks:
        client.set_task_run_state(task.id, Crashed(message=LOST), force=True)


def go_on(client: SyncPrefectClient, run: FlowRun) -> None:
    """Schedule a run of a deployment again that has ended early: it continues at its last snapshot."""
    _note(run.id).unlink(missing_ok=True)  # of a process that has gone: `settle` would take the run for lost once more
    client.set_flow_run_state(run.id, _resuming(client, run, CONTINUES), force=True)


def _resuming(client: SyncPrefectClient, run: FlowRun, message: str) -> State[Any]:
    """Turn on `resume` for a run, and make the state in which it waits to continue."""
    client.update_flow_run(run.id, parameters=resumed(run.parameters))
    return Scheduled(name=RESUMING, message=message)


def resumed(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of a run so that its renders continue where they stopped."""
    changed = dict(parameters)
    if isinstance(changed.get("parameters"), dict):
        changed["parameters"] = changed["parameters"] | {"resume": True}
    if isinstance(changed.get("jobs"), list):
        changed["jobs"] = [job | {"resume": True} if isinstance(job, dict) else job for job in changed["jobs"]]
    return changed
