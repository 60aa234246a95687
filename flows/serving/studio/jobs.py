"""Queue of the studio page: runs of the flow `render` in Prefect, whoever started them.

What the page shows of a run is what its artifacts say: progress in percent, memory, the id of its live output, and that
of the run that it published.
"""

import re
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from flows.parameters import grouped, ungrouped
from flows.serving import environment
from flows.stored_inputs import StoredInput, input_of_path

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
from liveavatar.errors import CapacityError, InputError  # noqa: E402

DEPLOYMENT, FLOW = "render/render", "render"
PROGRESS, LIVE, REPORT = "render-progress", "render-live", "render-report"  # keys of artifacts
LATER = timedelta(minutes=2)  # a run scheduled beyond is not in the queue yet
SHOWN = timedelta(hours=12)  # that a run without a video stays in the list after its end
LISTED = 30  # runs
SERVED_SECONDS = 60.0  # for the deployment to be there
PACED = 5  # ended runs from which the pace is taken
WAITING, RUNNING, ENDED = "waiting", "running", "ended"
ID = re.compile(r"[0-9a-f]{32}")
STAGE = re.compile(r"-[0-9a-f]{3}$")  # what Prefect adds to the name of a task
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


class JobQueue(Protocol):
    """Starts, lists and cancels jobs."""

    def start(self, parameters: dict[str, Any]) -> str:
        """Queue a render and return its id."""

    def jobs(self) -> list[QueuedJob]:
        """List the jobs that run or wait, the next one first, then those that lately ended without a video."""

    def cancel(self, job_id: str) -> None:
        """End a job."""

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
        if not UUID.fullmatch(job_id):
            raise InputError("there is no such job")
        with get_client(sync_client=True) as client:
            try:
                run = client.read_flow_run(job_id)  # type: ignore[arg-type] # its own type says UUID, it takes text
            except ObjectNotFound as e:
                raise InputError("there is no such job") from e
            if run.state_type in (StateType.RUNNING, StateType.CANCELLING):
                client.set_flow_run_state(run.id, Cancelling())
            elif run.state_type is not None and not _has_ended(run):
                client.set_flow_run_state(run.id, Cancelled())


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
    pace = _pace(run for run in runs if (run.id, REPORT) in of_run)
    jobs: list[QueuedJob] = []
    ahead: float | None = 0.0  # s until a run that is asked next begins
    for run in sorted(runs, key=lambda run: (run.state_type != StateType.RUNNING, run.expected_start_time or now)):
        if _has_ended(run):
            continue
        job = _described(run, of_run)
        progress = of_run.get((run.id, PROGRESS))
        left = _left(progress, now) if progress is not None and job.state == RUNNING else None
        left = _expected(run, pace, now) if left is None else left
        ahead = None if ahead is None or left is None else ahead + left
        stage = (stages or {}).get(run.id)
        jobs.append(replace(job, stage=stage, left_s=None if ahead is None else round(ahead, 1)))
    ended = [_described(run, of_run) for run in runs if _has_ended(run)]
    return jobs + [job for job in ended if job.run is None]


def _described(run: FlowRun, of_run: dict[tuple[Any, str], Artifact]) -> QueuedJob:
    state = ENDED if _has_ended(run) else RUNNING if run.state_type in _AT_WORK else WAITING
    progress = of_run.get((run.id, PROGRESS))
    told = (progress.description or "").splitlines() if progress is not None and state == RUNNING else []
    picture = _stored(run, "image")
    return QueuedJob(
        id=str(run.id),
        name=_name(run),
        state=state,
        label=run.state_name or "",
        message=(run.state.message or "") if run.state is not None and state == ENDED else "",
        percent=None if progress is None else round(float(str(progress.data)), 1),
        memory=told[1] or None if len(told) > 1 else None,
        short=tuple(told[2:]),
        live=_id_in(of_run.get((run.id, LIVE))),
        run=_id_in(of_run.get((run.id, REPORT))),
        image=None if picture is None else picture.id,
    )


def _name(run: FlowRun) -> str:
    """Name a run; one that has not begun may still have a name of Prefect's."""
    given = run.parameters.get("parameters")
    return render_name({"parameters": given}) if made_up(run.name or "") and isinstance(given, dict) else run.name or ""


_AT_WORK = (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)


def _id_in(link: Artifact | None) -> str | None:
    """Find the id in the address of a link artifact."""
    found = None if link is None else ID.search(str(link.data))
    return None if found is None else found[0]


def _stored(run: FlowRun, option: str) -> StoredInput | None:
    given = run.parameters.get("parameters")
    return input_of_path(str(ungrouped(given).get(option, ""))) if isinstance(given, dict) else None


def _pace(runs: Iterable[FlowRun]) -> float | None:
    """Compute the seconds that ended runs took for a second of sound; None where no length is known."""
    paces: list[float] = []
    for run in runs:
        sound = _stored(run, "audio")
        if _has_ended(run) and sound is not None and sound.seconds:
            paces.append(run.total_run_time.total_seconds() / sound.seconds)
    return statistics.median(paces[:PACED]) if paces else None


def _left(progress: Artifact, now: datetime) -> float | None:
    """Compute the seconds until all blocks are made from the pace so far.

    None after the first report, and when they should have passed: a later stage is at work, or the run was lost.
    """
    percent = float(str(progress.data))
    if progress.created is None or progress.updated is None or percent <= 0:
        return None
    passed = (progress.updated - progress.created).total_seconds()
    if passed <= 0:
        return None
    return _ahead(passed * (100 - percent) / percent - (now - progress.updated).total_seconds())


def _ahead(seconds: float) -> float | None:
    """Return seconds that are to come; None for those that have passed."""
    return seconds if seconds > 0 else None


def _expected(run: FlowRun, pace: float | None, now: datetime) -> float | None:
    """Expect the seconds until the end of a run without progress, by the pace of others."""
    sound = _stored(run, "audio")
    if pace is None or sound is None or not sound.seconds:
        return None
    passed = (now - run.start_time).total_seconds() if run.start_time is not None else 0.0
    return _ahead(pace * sound.seconds - passed)
