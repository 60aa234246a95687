"""Schedules of the table of deployments: read from its rows, and joined with what was changed in the Prefect UI.

A schedule of the table is known by a slug made of what the table says about it. While the table says the same, what was
changed in the UI counts: a schedule switched off, paused or edited there stays so when `liveavatar serve` is started
again, and so do schedules that were added there.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import DeploymentSchedule, FlowRun, State, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron, Interval, RRule, Schedule
from prefect.states import Cancelled

from liveavatar.errors import InputError

log = logging.getLogger(__name__)

PREFIX = "table-"  # of the slugs of schedules that the table has
KINDS: dict[str, Callable[..., Schedule]] = {"cron": Cron, "interval": Interval, "rrule": RRule}
SKIPPED = "Skipped"  # name of the state of a missed run in place of which a later one is made
ASKED = 200  # runs in one request; Prefect's limit


def read_schedules(row: dict[str, Any]) -> list[DeploymentScheduleCreate]:
    """Read the schedules of a row of the table.

    Raises:
        InputError: one cannot be used.
    """
    return [_read(str(row["name"]), given) for given in row.get("schedules") or []]


def _read(name: str, given: Any) -> DeploymentScheduleCreate:
    if not isinstance(given, dict) or sum(kind in given for kind in KINDS) != 1:
        raise InputError(f'the schedule {given} of {name} needs one of {", ".join(KINDS)}, such as cron: "0 7 * * *"')
    kind = next(kind for kind in KINDS if kind in given)
    options = {"timezone": "UTC"} | {key: value for key, value in given.items() if key not in (kind, "slug")}
    slug = PREFIX + hashlib.sha256(json.dumps(given, sort_keys=True, default=str).encode()).hexdigest()[:12]
    try:
        return DeploymentScheduleCreate.from_schedule(KINDS[kind](given[kind], **options, slug=slug))
    except (TypeError, ValueError) as e:
        reason = str(e).split(" [type=")[0].splitlines()[-1].strip().removeprefix("Value error, ")
        raise InputError(
            f"the schedule {given} of {name} cannot be used: {reason}; correct {kind}, timezone (such as "
            "Asia/Shanghai) or active (true, false)"
        ) from e


def keep_changes(client: SyncPrefectClient, served: list[RunnerDeployment]) -> None:
    """Give deployments the pauses and schedules that the UI has changed, before they are registered again."""
    found = [(deployment, _registered(client, deployment)) for deployment in served]
    known = [(deployment, before) for deployment, before in found if before is not None]
    # where no schedule has our slug an earlier version was the last, which paused all whenever `serve` ended
    kept = any(_of_table(schedule) for _, before in known for schedule in before.schedules)
    for deployment, before in known:
        deployment.paused = before.paused if kept else None
        ours = [schedule for schedule in deployment.schedules or [] if isinstance(schedule, DeploymentScheduleCreate)]
        deployment.schedules = joined(ours, before.schedules)


def _registered(client: SyncPrefectClient, deployment: RunnerDeployment) -> DeploymentResponse | None:
    try:
        return client.read_deployment_by_name(f"{deployment.flow_name}/{deployment.name}")
    except ObjectNotFound:
        return None


def _of_table(schedule: DeploymentSchedule) -> bool:
    return (schedule.slug or "").startswith(PREFIX)


def joined(ours: list[DeploymentScheduleCreate], before: Iterable[DeploymentSchedule]) -> list[Any]:
    """Join the schedules of the table with those that Prefect has.

    Args:
        ours: of the table.
        before: of the deployment; those of the table that the table has no longer are left out.
    """
    listed = list(before)
    known = {schedule.slug: schedule for schedule in listed}
    said = [schedule.schedule.model_dump() for schedule in ours]
    added = [schedule for schedule in listed if not _of_table(schedule) and schedule.schedule.model_dump() not in said]
    return [*(_again(known[own.slug]) if own.slug in known else own for own in ours), *map(_again, added)]


def _again(schedule: DeploymentSchedule) -> DeploymentScheduleCreate:
    return DeploymentScheduleCreate(
        schedule=schedule.schedule, active=schedule.active, parameters=schedule.parameters, slug=schedule.slug
    )


def retire(client: SyncPrefectClient, served: list[RunnerDeployment]) -> list[str]:
    """Remove the schedules of rows that the table has no longer: nothing would make their runs.

    Args:
        client: of our own server, which has no other table.
        served: the deployments of the table.

    Returns:
        a line for each deployment that lost them.
    """
    kept = {f"{deployment.flow_name}/{deployment.name}" for deployment in served}
    lines = []
    for before in client.read_deployments():
        ours = [schedule for schedule in before.schedules if _of_table(schedule)]
        name = f"{client.read_flow(before.flow_id).name}/{before.name}" if ours else ""
        if not ours or name in kept:
            continue
        for schedule in ours:
            client.delete_deployment_schedule(before.id, schedule.id)
        for run in _scheduled(client, name):
            client.delete_flow_run(run.id)
        lines.append(f"{name}: it is no longer in the table of deployments; its schedule was removed")
    return lines


def skip_missed(client: SyncPrefectClient, names: list[str]) -> list[str]:
    """End the scheduled runs that were missed while nothing served them, but for the newest of each deployment.

    Args:
        client: of the server.
        names: of deployments, as "flow/deployment".

    Returns:
        a line for each deployment that missed some.
    """
    lines = []
    for name in names:
        missed = [run for run in _scheduled(client, name) if _is_due(run)]
        for run in missed[:-1]:
            state: State[None] = Cancelled(
                name=SKIPPED, message="it was missed while nothing served it; a later one is made"
            )
            client.set_flow_run_state(run.id, state, force=True)
        if missed:
            lines.append(f"{name}: {len(missed)} scheduled run(s) were missed; the newest is made now")
    return lines


def _scheduled(client: SyncPrefectClient, name: str) -> list[FlowRun]:
    """List the runs that schedules of a deployment have made and that have not begun, the first to begin first."""
    flow, _, deployment = name.partition("/")
    runs = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
        deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[deployment])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
        ),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
        limit=ASKED,
    )
    return [run for run in runs if run.auto_scheduled and not run.run_count]  # one that was lost is to continue


def _is_due(run: FlowRun) -> bool:
    return run.expected_start_time is not None and run.expected_start_time < datetime.now(UTC)
