"""Schedules of the table: read, joined with what the UI changed, and runs that were missed."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import DeploymentSchedule, FlowRun
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Scheduled, State

from flows.serving.schedules import SKIPPED, joined, keep_changes, read_schedules, retire, skip_missed
from liveavatar.errors import InputError


def row(*schedules: dict[str, Any]) -> dict[str, Any]:
    return {"name": "news", "schedules": list(schedules)}


SEVEN = {"cron": "0 7 * * *", "timezone": "Asia/Shanghai"}


def in_prefect(given: DeploymentScheduleCreate, **changed: Any) -> DeploymentSchedule:
    facts = {"schedule": given.schedule, "active": given.active, "slug": given.slug, **changed}
    return DeploymentSchedule(deployment_id=uuid4(), **facts)


def test_every_kind_of_schedule_is_read() -> None:
    (cron, interval, rule, utc) = read_schedules(
        row(SEVEN, {"interval": 3600}, {"rrule": "FREQ=DAILY"}, {"cron": "0 3 * * *", "active": False})
    )
    assert isinstance(cron.schedule, CronSchedule)
    assert (cron.schedule.cron, cron.schedule.timezone, cron.active) == ("0 7 * * *", "Asia/Shanghai", True)
    assert isinstance(interval.schedule, IntervalSchedule)
    assert interval.schedule.interval == timedelta(hours=1)
    assert rule.schedule.timezone == utc.schedule.timezone == "UTC"
    assert not utc.active
    assert len({schedule.slug for schedule in (cron, interval, rule, utc)}) == 4
    assert read_schedules(row(SEVEN))[0].slug == cron.slug


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"cron": "7 o'clock"}, "cannot be used"),
        ({"cron": "0 7 * * *", "timezone": "Asia/Beijing"}, "Asia/Beijing"),
        ({"cron": "0 7 * * *", "timezon": "UTC"}, "timezon"),
        ({"cron": "0 7 * * *", "active": "perhaps"}, "active"),
        ({"timezone": "UTC"}, "needs one of cron, interval, rrule"),
        ({"cron": "0 7 * * *", "interval": 60}, "needs one of"),
        ("0 7 * * *", "needs one of"),
        ({"interval": "daily"}, "cannot be used"),
        ({"interval": -5}, "cannot be used"),
        ({"rrule": "every day"}, "cannot be used"),
    ],
)
def test_a_schedule_that_cannot_be_used_is_refused(given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        read_schedules(row(given))
    assert "of news" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_was_changed_in_the_ui_stays_while_the_table_says_the_same() -> None:
    ours = read_schedules(row(SEVEN, {"interval": 3600}))
    edited = CronSchedule(cron="0 8 * * *", timezone="UTC")
    added = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 9 * * 1", timezone="Europe/Berlin"))
    before = [in_prefect(ours[0], active=False), in_prefect(ours[1], schedule=edited), in_prefect(added)]
    kept = joined(ours, before)
    assert [(s.active, s.schedule) for s in kept] == [
        (False, ours[0].schedule), (True, edited), (True, added.schedule),
    ]  # fmt: skip
    assert [s.slug for s in kept] == [ours[0].slug, ours[1].slug, None]


def test_a_row_that_was_changed_counts() -> None:
    (before,) = read_schedules(row(SEVEN))
    (ours,) = read_schedules(row({**SEVEN, "cron": "0 6 * * *"}))
    assert joined([ours], [in_prefect(before, active=False)]) == [ours]
    assert joined([], [in_prefect(before)]) == []
    assert joined([ours], [in_prefect(ours, slug=None)]) == [ours], "as an earlier version registered it"


class Registry:
    """Deployments and runs as a server of Prefect has them."""

    def __init__(self, *runs: FlowRun, **deployments: Any) -> None:
        self.runs, self.deployments = list(runs), deployments
        self.states: dict[UUID, State[Any]] = {}
        self.removed: list[tuple[UUID, UUID]] = []

    def read_deployment_by_name(self, name: str) -> Any:
        try:
            return self.deployments[name.partition("/")[2]]
        except KeyError as e:
            raise ObjectNotFound(e) from e

    def read_flow_runs(self, **_: Any) -> list[FlowRun]:
        return self.runs

    def read_deployments(self) -> list[Any]:
        return list(self.deployments.values())

    def read_flow(self, _: UUID) -> Any:
        return SimpleNamespace(name="broadcast")

    def delete_deployment_schedule(self, deployment_id: UUID, schedule_id: UUID) -> None:
        self.removed.append((deployment_id, schedule_id))

    def delete_flow_run(self, run_id: UUID) -> None:
        self.runs = [run for run in self.runs if run.id != run_id]

    def set_flow_run_state(self, run_id: UUID, state: State[Any], *, force: bool) -> None:
        self.states[run_id] = state


@flow
def broadcast() -> None:
    """Do nothing."""


def served(name: str, *schedules: DeploymentScheduleCreate) -> RunnerDeployment:
    made = broadcast.to_deployment(name=name)
    assert isinstance(made, RunnerDeployment)
    made.schedules = list(schedules)
    return made


@pytest.mark.parametrize("by_us", [True, False], ids=["this version", "one that paused all at its end"])
def test_a_pause_of_the_user_stays(by_us: bool) -> None:
    (ours,) = read_schedules(row(SEVEN))
    nightly, news, new = served("nightly", ours), served("news"), served("new")
    slug = ours.slug if by_us else None
    registry = Registry(
        nightly=SimpleNamespace(paused=False, schedules=[in_prefect(ours, active=False, slug=slug)]),
        news=SimpleNamespace(paused=True, schedules=[]),
    )
    keep_changes(registry, [nightly, news, new])  # type: ignore[arg-type]
    assert (bool(nightly.paused), bool(news.paused), bool(new.paused)) == (False, by_us, False)
    assert [schedule.active for schedule in nightly.schedules or []] == [not by_us]


def due(minutes: int, **facts: Any) -> FlowRun:
    at = datetime.now(UTC) + timedelta(minutes=minutes)
    given = {"auto_scheduled": True, "run_count": 0, **facts}
    return FlowRun(id=uuid4(), flow_id=uuid4(), state=Scheduled(), expected_start_time=at, **given)


def test_of_missed_runs_the_newest_is_made() -> None:
    lost, asked = due(-50, run_count=1), due(-45, auto_scheduled=False)
    first, second, third, coming = due(-40), due(-30), due(-20), due(10)
    registry = Registry(lost, asked, first, second, third, coming)
    (line,) = skip_missed(registry, ["render/news"])  # type: ignore[arg-type]
    assert line.startswith("render/news: 3 scheduled")
    assert {run_id: state.name for run_id, state in registry.states.items()} == {first.id: SKIPPED, second.id: SKIPPED}
    assert skip_missed(Registry(lost, asked, coming), ["render/news"]) == []  # type: ignore[arg-type]


def test_a_row_that_left_the_table_is_scheduled_no_more() -> None:
    (ours,) = read_schedules(row(SEVEN))
    added = in_prefect(DeploymentScheduleCreate(schedule=CronSchedule(cron="0 9 * * 1")))
    gone = SimpleNamespace(id=uuid4(), flow_id=uuid4(), name="gone", schedules=[in_prefect(ours), added])
    news = SimpleNamespace(id=uuid4(), flow_id=uuid4(), name="news", schedules=[in_prefect(ours)])
    theirs = SimpleNamespace(id=uuid4(), flow_id=uuid4(), name="theirs", schedules=[added])
    lost = due(-50, run_count=1)
    registry = Registry(lost, due(-10), due(10), gone=gone, news=news, theirs=theirs)
    (line,) = retire(registry, [served("news", ours)])  # type: ignore[arg-type]
    assert line.startswith("broadcast/gone: it is no longer in the table")
    assert registry.removed == [(gone.id, gone.schedules[0].id)]
    assert registry.runs == [lost]
