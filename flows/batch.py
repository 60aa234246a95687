"""A table of jobs -> many renders. A bad job does not stop the others; each outcome has its reason."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import copy_context
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from flows.batch_table import BatchTable
from flows.cancelling import unless_cancelled
from flows.job_check import check_columns, name_outputs, refusals
from flows.parameters import RenderParameters, read_parameters, ungrouped
from flows.serving import environment
from flows.terminal import complain, say
from liveavatar import paths
from liveavatar.errors import INTERNAL, InputError, LiveAvatarError

environment.import_prefect()

from prefect import Flow, flow, get_run_logger  # noqa: E402 (Prefect reads the environment when it is imported)
from prefect.artifacts import create_table_artifact  # noqa: E402
from prefect.exceptions import TerminationSignal  # noqa: E402
from prefect.states import State  # noqa: E402

from flows.render import render, render_flow  # noqa: E402
from flows.run_record import named, outcome_of, state_of  # noqa: E402
from flows.serving.lost_runs import note_run  # noqa: E402
from tasks.bookkeeping import recorded  # noqa: E402
from tasks.cluster import head  # noqa: E402
from tasks.cluster.interruption import comes_from_interrupt  # noqa: E402
from tasks.cluster.replicas import Replicas  # noqa: E402
from tasks.events import Event, emit  # noqa: E402

Job = dict[str, Any]
DEFAULT_OUT = "out/batch"  # as the form shows it; see `paths.outputs`
MAX_LINES = 10  # refused rows named before the first render


@flow(
    name="batch",
    flow_run_name=named(lambda given: f"batch-{Path(given.get('out', 'batch')).name}"),
    persist_result=False,
    on_running=[note_run],
)
def batch(
    jobs: list[dict[str, Any]], out: str = DEFAULT_OUT, replicas: Annotated[int, Field(ge=1, le=64)] = 1
) -> State[list[dict[str, Any]]]:
    """Render every job, in order, or several side by side.

    Args:
        jobs: options of a render each; `out` is chosen below `out` when a job has none.
        out: folder for the jobs' folders and for batch.json, batch.parquet and batch.html, which grow.
        replicas: engines that take jobs side by side.

    Returns:
        a state, Failed when any job is not done or its quality failed, with one row a job: `job` (from 0), `out`,
        `status` (passed, warned, failed, refused, crashed), `exit_code`, `reason`.

    Raises:
        InputError: there is no job, or what a job names is no option of a render.
    """
    return unless_cancelled(lambda: _render_jobs(jobs, out, replicas))


def _render_jobs(jobs: list[Job], out: str, replicas: int) -> State[list[dict[str, Any]]]:
    if not jobs:
        raise InputError("jobs is empty; give a list of jobs, each with audio, image and prompt")
    jobs = [ungrouped(job) for job in jobs]
    check_columns(jobs)
    out = str(paths.outputs() / Path(out).name) if out == DEFAULT_OUT else out
    named = name_outputs(jobs, Path(out))
    refused = refusals(named)
    announce(refused, len(named))
    table = BatchTable(Path(out), [Path(str(job.get("audio", "job"))).name for job in named])
    for index, error in refused.items():
        table.refuse(index, row_of(named[index], error))
    log = get_run_logger()

    def on_end(index: int, row: dict[str, Any]) -> None:
        line = table.add(index, row)
        log.info("%s", line)
        emit(Event(kind="note", stage="batch", text=line))

    good = {index: job for index, job in enumerate(named) if index not in refused}
    if good and replicas > 1:
        render_side_by_side(good, replicas, on_end)
    else:
        for index, job in good.items():
            on_end(index, render_one(job))
    rows = table.rows()
    recorded(lambda: create_table_artifact(table=rows, key="batch", description=f"{len(rows)} jobs"))
    return batch_state(rows)


def announce(refused: dict[int, LiveAvatarError], count: int) -> None:
    """Say before the first render which rows will be none; people count them from 1."""
    for index, error in list(refused.items())[:MAX_LINES]:
        complain(f"job {index + 1}/{count} is refused: {error}")
    if len(refused) > MAX_LINES:
        complain(f"and {len(refused) - MAX_LINES} more")


def batch_state(rows: list[dict[str, Any]]) -> State[list[dict[str, Any]]]:
    """Make the final state of a batch: the jobs that went wrong, the worst exit code first."""
    bad = sorted((row for row in rows if row["exit_code"]), key=lambda row: -row["exit_code"])
    warned = [row for row in rows if row["status"] == "warned"]
    reasons = [f"job {row['job'] + 1} {row['status']}: {row['reason']}".rstrip(": ") for row in (*bad, *warned)]
    status = "failed" if bad else "warned" if warned else "passed"
    return state_of(status, rows, reasons, f"{len(rows)} jobs in {Path(rows[0]['out']).parent}" if rows else "no jobs")


def render_side_by_side(jobs: dict[int, Job], count: int, on_end: Callable[[int, dict[str, Any]], None]) -> None:
    """Render jobs on `count` engines, each in a thread of its own; Ctrl-C and SIGTERM end all of them.

    Args:
        jobs: by their numbers.
        count: of engines.
        on_end: called with the number and the row of a job that has ended.
    """
    head.connect()  # in this thread: Ray starts once, and its signals are the main thread's
    replicas = Replicas(count)
    shared = render_flow(replicas=replicas)
    with ThreadPoolExecutor(count) as threads:
        numbers = {threads.submit(copy_context().run, render_one, job, shared): i for i, job in jobs.items()}
        try:
            for future in as_completed(numbers):
                on_end(numbers[future], future.result())
        except (KeyboardInterrupt, TerminationSignal):
            threads.shutdown(wait=False, cancel_futures=True)
            replicas.interruption.interrupt()
            raise


def render_one(job: Job, flow: Flow[[RenderParameters], State[dict[str, Any]]] = render) -> dict[str, Any]:
    """Render a job and return its row; a job that fails raises nothing.

    Raises:
        LiveAvatarError: it was stopped by Ctrl-C, which is for the whole batch.
    """
    try:
        result = outcome_of(flow, read_parameters(job))
    except InputError as e:
        result = e
    if isinstance(result, LiveAvatarError) and comes_from_interrupt(result):
        raise result
    if isinstance(result, BaseException):
        return row_of(job, result)
    failed = [c["reason"] for c in result["report"]["checks"] if c["status"] == "failed"]
    return {
        "out": job["out"],
        "status": result["status"],
        "exit_code": int(result["status"] == "failed"),
        "reason": "; ".join(dict.fromkeys(failed)),  # many checks may fail for one reason
    }


def row_of(job: Job, error: BaseException) -> dict[str, Any]:
    """Make the row of a job that is not done."""
    if not isinstance(error, LiveAvatarError):
        reason = f"{type(error).__name__}: {error}"
        return {"out": job["out"], "status": "crashed", "exit_code": INTERNAL, "reason": reason}
    status = "refused" if error.exit_code == InputError.exit_code else "crashed"
    return {"out": job["out"], "status": status, "exit_code": error.exit_code, "reason": str(error)}


def print_outcomes(rows: list[dict[str, Any]], as_json: bool) -> int:
    """Print a line a job; the exit code is the worst of the jobs'."""
    if as_json:
        say(json.dumps(rows, indent=2, ensure_ascii=False))
    for row in rows:
        line = f"{row['job'] + 1:>4}  {row['status']:<8} {row['out']}  {row['reason']}".rstrip()
        if not as_json:
            (complain if row["exit_code"] > 1 else say)(line)
    return max(row["exit_code"] for row in rows)
