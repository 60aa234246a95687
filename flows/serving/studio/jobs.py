"""Queue of the studio page: runs of the flow `render` in Prefect, whoever started them.

What the page shows of a run is what its artifacts say: progress in percent, memory, the id of its live output, and that
of the run that it published.
"""

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from flows.parameters import grouped
from flows.serving import environment

environment.import_prefect()

from prefect.client.orchestration import SyncPrefectClient, get_client  # noqa: E402
from prefect.client.schemas import filters  # noqa: E402 (Prefect reads the environment when it is imported)
from prefect.client.schemas.actions import DeploymentUpdate  # noqa: E402
from prefect.client.schemas.objects import Artifact, FlowRun, StateType  # noqa: E402
from prefect.client.schemas.sorting import FlowRunSort  # noqa: E402
from prefect.exceptions import ObjectNotFound  # noqa: E402
from prefect.states import Cancelled, Cancelling  # noqa: E402
from prefect.utilities.callables import parameter_schema  # noqa: E402

from flows.run_name import made_up, render_name  # noqa: E402
from flows.serving.deployments import deployments, flow_of  # noqa: E402
from flows.serving.lost_runs import WAY, go_on  # noqa: E402
from flows.serving.schedules import SKIPPED  # noqa: E402
from flows.serving.studio.pace import begun_at, left_of, pace_of, stored_input  # noqa: E402
from liveavatar.errors import CapacityError, InputError  # noqa: E402

DEPLOYMENT, FLOW = "render/render", "render"
PROGRESS, LIVE, REPORT = "render-progress", "render-live", "render-report"  # keys of artifacts
LATER = timedelta(minutes=2)  # a run scheduled beyond is not in the queue yet
SHOWN = timedelta(hours=12)  # that a run without a video stays in the list after its end
LISTED = 30  # runs
SERVED_SECONDS = 60.0  # for the deployment to be there
WAITING, RUNNING, ENDED = "waiting", "running", "ended"
ID = re.compile(r"[0-9a-f]{32}")
STAGE = re.compile(r"-[0-9a-f]{3}$")  # what Prefect adds to the name of a task
REFUSED = re.compile(r"\bInputError: |Validation of flow parameters failed|^failed: ")  # of the message of a Failed run
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, kw_only=True, slots=True)
class QueuedJob:
    """A run as the queue shows it."""

    id: str  # of the flow run
    name: str
    state: str  # WAITING, RUNNING or ENDED, which is without a video
    label: str  # name of its state in Prefect
    message: str  # of the state, when it has ended
    stage: str | None = None  # that it is in
    percent: float | None = None  # of its blocks
    memory: str | None = None  # of its processes, in words
    short: tuple[str, ...] = ()  # warnings of memory that is nearly full
    left_s: float | None = None  # until its end, with those before it; None where nobody knows
    live: str | None = None  # id of its live output
    run: str | None = None  # id of the run it published
    image: str | None = None  # id of its picture, when the page stores it
    can_go_on: bool = False  # it ended early, and `JobQueue.go_on` continues it


class JobQueue(Protocol):
    """Starts, lists, cancels and continues jobs."""

    def start(self, parameters: dict[str, Any]) -> str:
        """Queue a render and return its id."""

    def jobs(self) -> list[QueuedJob]:
        """List the jobs that run or wait, the next one first, then those that lately ended without a video."""

    def cancel(self, job_id: str) -> None:
        """End a job."""

    def go_on(self, job_id: str) -> None:
        """Continue a job that ended early, at its last snapshot."""

    def renew_form(self) -> None:
        """Name the files of the studio page in the form that starts a job elsewhere."""


class PrefectQueue:
    """The queue of the Prefect server of this session."""

    def start(self, parameters: dict[str, Any]) -> str:
        """Start a run of the deployment that the form in the Prefect UI starts, too.

        Raises:
            CapacityError: it is not there.
        """
        with get_client(sync_client=True) as client:
            deadline = time.monotonic() + SERVED_SECONDS
            while True:
                try:
                    deployment = client.read_deployment_by_name(DEPLOYMENT)
                    break
                except ObjectNotFound as e:  # `serve` makes it a little after the page opens
                    if time.monotonic() > deadline:
                        raise CapacityError("the deployments are not served yet; try again in some seconds") from e
                    time.sleep(1.0)
            form = {"parameters": grouped(parameters)}
            name = render_name({"parameters": parameters})
            run = client.create_flow_run_from_deployment(deployment.id, parameters=form, name=name)
            return str(run.id)

    def renew_form(self) -> None:
        """Write the form of the deployment in the Prefect UI anew: it names the files of the studio page."""
        (row,) = (row for row in deployments() if row["name"] == DEPLOYMENT.partition("/")[2])
        form = parameter_schema(flow_of(row["entrypoint"]).fn).model_dump()
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name(DEPLOYMENT)
            client.update_deployment(deployment.id, DeploymentUpdate(parameter_openapi_schema=form))

    def jobs(self) -> list[QueuedJob]:
        """List the runs of the flow `render`; see `JobQueue.jobs`."""
        now = datetime.now(UTC)
        with get_client(sync_client=True) as client:
            runs = [*_ended(client, now), *_going(client, now)]
            artifacts = _artifacts(client, runs)
            stages = _stages(client, runs)
        return listed(runs, artifacts, now, stages)

    def cancel(self, job_id: str) -> None:
        """Cancel a run: one that waits at once, one that runs through its runner.

        Raises:
            InputError: there is no such run.
        """
        with _job(job_id) as (client, run):
            if run.state_type in (StateType.RUNNING, StateType.CANCELLING):
                client.set_flow_run_state(run.id, Cancelling())
            elif run.state_type is not None and not _has_ended(run):
                client.set_flow_run_state(run.id, Cancelled())

    def go_on(self, job_id: str) -> None:
        """Schedule a run that ended early again; it continues at its last snapshot, and is the same run in Prefect.

        Raises:
            InputError: there is no such run, or it has nothing to continue.
        """
        with _job(job_id) as (client, run):
            if not _can_go_on(run):
                raise InputError("this job cannot go on: it has not ended early; start a new one")
            go_on(client, run)


@contextmanager
def _job(job_id: str) -> Iterator[tuple[SyncPrefectClient, FlowRun]]:
    """Read a run, and yield it with the client that is to change it.

    Raises:
        InputError: there is no such run.
    """
    if not UUID.fullmatch(job_id):
        raise InputError("there is no such job")
    with get_client(sync_client=True) as client:
        try:
            run = client.read_flow_run(job_id)  # type: ignore[arg-type] # its own type says UUID, it takes text
        except ObjectNotFound as e:
            raise InputError("there is no such job") from e
        yield client, run


OF_FLOW = filters.FlowFilter(name=filters.FlowFilterName(any_=[FLOW]))
FINAL = [StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED]


def _going(client: SyncPrefectClient, now: datetime) -> list[FlowRun]:
    """Read the runs that run or wait, the next one first. Those scheduled for later must not hide them."""
    wanted = filters.FlowRunFilter(
        state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(not_any_=FINAL)),
        expected_start_time=filters.FlowRunFilterExpectedStartTime(before_=now + LATER),  # type: ignore[arg-type] # takes any
    )
    sort = FlowRunSort.EXPECTED_START_TIME_ASC
    return client.read_flow_runs(flow_filter=OF_FLOW, flow_run_filter=wanted, sort=sort, limit=LISTED)


def _ended(client: SyncPrefectClient, now: datetime) -> list[FlowRun]:
    """Read the runs that lately ended, the newest first."""
    wanted = filters.FlowRunFilter(
        state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=FINAL)),
        end_time=filters.FlowRunFilterEndTime(after_=now - SHOWN),  # type: ignore[arg-type] # takes any
    )
    return client.read_flow_runs(
        flow_filter=OF_FLOW, flow_run_filter=wanted, sort=FlowRunSort.END_TIME_DESC, limit=LISTED
    )


def _has_ended(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_final()


def _artifacts(client: SyncPrefectClient, runs: Iterable[FlowRun]) -> list[Artifact]:
    wanted = [run.id for run in runs]
    if not wanted:
        return []
    return client.read_artifacts(
        artifact_filter=filters.ArtifactFilter(
            flow_run_id=filters.ArtifactFilterFlowRunId(any_=wanted),
            key=filters.ArtifactFilterKey(any_=[PROGRESS, LIVE, REPORT]),
        ),
        limit=200,
    )


def _stages(client: SyncPrefectClient, runs: Iterable[FlowRun]) -> dict[Any, str]:
    """Read the stage that each run is in."""
    running = [run.id for run in runs if run.state_type == StateType.RUNNING]
    if not running:
        return {}
    tasks = client.read_task_runs(
        flow_run_filter=filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=running)),
        task_run_filter=filters.TaskRunFilter(
            state=filters.TaskRunFilterState(type=filters.TaskRunFilterStateType(any_=[StateType.RUNNING]))
        ),
    )
    return {task.flow_run_id: STAGE.split(task.name)[0] for task in tasks}


def listed(
    runs: list[FlowRun], artifacts: list[Artifact], now: datetime, stages: Mapping[Any, str] | None = None
) -> list[QueuedJob]:
    """Describe runs: those that run, those that wait in their order, those that ended without a video.

    Args:
        runs: of the flow `render`, the newest first.
        artifacts: of them.
        now: with a time zone.
        stages: that runs are in, by their ids.
    """
    of_run: dict[tuple[Any, str], Artifact] = {}
    for artifact in sorted(artifacts, key=lambda a: a.created or now):
        of_run[artifact.flow_run_id, str(artifact.key)] = artifact
    progress = {run_id: artifact for (run_id, key), artifact in of_run.items() if key == PROGRESS}
    made = [run for run in runs if _has_ended(run) and (run.id, REPORT) in of_run]
    jobs: list[QueuedJob] = []
    ahead: float | None = 0.0  # s until a run that is asked next begins
    for run in sorted(runs, key=lambda run: (run.state_type != StateType.RUNNING, run.expected_start_time or now)):
        if _has_ended(run):
            continue
        job = _described(run, of_run)
        of_blocks = _progress(run, of_run) if job.state == RUNNING else None
        left = 0.0 if _is_ending(run) else left_of(run, of_blocks, pace_of(made, progress, run), now)
        ahead = None if ahead is None or left is None else ahead + left
        stage = (stages or {}).get(run.id)
        told = None if ahead is None or _is_ending(run) else round(ahead, 1)
        jobs.append(replace(job, stage=stage, left_s=told))
    ended = [_described(run, of_run) for run in runs if _has_ended(run) and run.state_name != SKIPPED]
    return jobs + [job for job in ended if job.run is None]


def _described(run: FlowRun, of_run: dict[tuple[Any, str], Artifact]) -> QueuedJob:
    state = ENDED if _has_ended(run) else RUNNING if run.state_type in _AT_WORK else WAITING
    progress = _progress(run, of_run)
    told = (progress.description or "").splitlines() if progress is not None and state == RUNNING else []
    picture, can_go_on = stored_input(run, "image"), _can_go_on(run)
    message = (run.state.message or "") if run.state is not None and state == ENDED else ""
    return QueuedJob(
        id=str(run.id),
        name=_name(run),
        state=state,
        label=run.state_name or "",
        message=message.removesuffix(f"; {WAY}") if can_go_on else message,  # the page has a button instead
        percent=None if progress is None else round(float(str(progress.data)), 1),
        memory=told[1] or None if len(told) > 1 else None,
        short=tuple(told[2:]),
        live=_id_in(of_run.get((run.id, LIVE))),
        run=_id_in(of_run.get((run.id, REPORT))),
        image=None if picture is None else picture.id,
        can_go_on=can_go_on,
    )


def _progress(run: FlowRun, of_run: dict[tuple[Any, str], Artifact]) -> Artifact | None:
    """Find the progress of a run; None while the one that is there is of an earlier start."""
    progress, begun = of_run.get((run.id, PROGRESS)), begun_at(run)
    if progress is None or run.run_count <= 1 or progress.updated is None or begun is None:
        return progress
    return None if progress.updated < begun else progress


def _can_go_on(run: FlowRun) -> bool:
    """Tell if a run ended before its video was made, and not because what it was given is refused.

    A run of a command belongs to its terminal: its paths may mean other files here.
    """
    state = run.state
    if state is None or run.deployment_id is None or not isinstance(run.parameters.get("parameters"), dict):
        return False
    return state.is_crashed() or state.is_cancelled() or (state.is_failed() and not REFUSED.search(state.message or ""))


def _is_ending(run: FlowRun) -> bool:
    return run.state_type == StateType.CANCELLING


def _name(run: FlowRun) -> str:
    """Name a run; one that has not begun may still have a name of Prefect's."""
    given = run.parameters.get("parameters")
    return render_name({"parameters": given}) if made_up(run.name or "") and isinstance(given, dict) else run.name or ""


_AT_WORK = (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)


def _id_in(link: Artifact | None) -> str | None:
    """Find the id in the address of a link artifact."""
    found = None if link is None else ID.search(str(link.data))
    return None if found is None else found[0]
