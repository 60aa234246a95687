"""The queue that the studio page shows: order, progress and time left, from records of Prefect."""

import json
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas import filters
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Failed, Running, Scheduled, State

from flows.serving.lost_runs import WAY
from flows.serving.schedules import SKIPPED
from flows.serving.studio import jobs
from flows.serving.studio.jobs import ENDED, LIVE, PROGRESS, REPORT, RUNNING, WAITING, listed
from flows.stored_inputs import AUDIO, IMAGE, StoredInput
from liveavatar.errors import InputError
from liveavatar.files import plain, write_json

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
RUN_ID = "0123456789abcdef" * 2


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    return tmp_path


def stored(kind: str, name: str, seconds: float | None = None) -> StoredInput:
    """Make a stored file of any content."""
    made = StoredInput(id=(name.encode().hex() * 32)[:32], kind=kind, name=name, seconds=seconds)
    write_json(made.path.parent.with_suffix(".json"), plain(made))
    made.path.parent.mkdir()
    made.path.touch()
    return made


def run(name: str, state: State[Any], *, ago: float = 0.0, took: float = 0.0, **options: str) -> FlowRun:
    """Make the record of a run that was asked for `ago` seconds before NOW."""
    asked = NOW - timedelta(seconds=ago)
    return FlowRun(
        id=uuid4(),
        flow_id=uuid4(),
        name=name,
        state=state,
        state_type=state.type,
        state_name=state.name,
        parameters={"parameters": options},
        expected_start_time=asked,
        start_time=asked if state.type.value != "SCHEDULED" else None,
        end_time=NOW if state.is_final() else None,
        total_run_time=timedelta(seconds=took),
    )


def artifact(of: FlowRun, key: str, data: Any, ago: float = 0.0, updated: float = 0.0) -> Artifact:
    """Make an artifact that was created and updated so many seconds before NOW."""
    created, changed = (NOW - timedelta(seconds=seconds) for seconds in (ago, updated))
    return Artifact(id=uuid4(), key=key, data=data, flow_run_id=of.id, created=created, updated=changed)


def test_the_running_job_is_first_and_those_behind_wait_for_it() -> None:
    second, third = run("second", Scheduled(), ago=50), run("third", Scheduled(), ago=40)
    first = run("first", Running(), ago=60)
    artifacts = [
        artifact(first, PROGRESS, 25.0, ago=34, updated=4),
        artifact(first, LIVE, f"[watch](http://127.0.0.1:4280/#{RUN_ID})"),
    ]
    shown = listed([third, second, first], artifacts, NOW, {first.id: "render"})
    assert [(job.name, job.state) for job in shown] == [("first", RUNNING), ("second", WAITING), ("third", WAITING)]
    assert (shown[0].stage, shown[0].percent, shown[0].live) == ("render", 25.0, RUN_ID)
    assert shown[0].left_s == 90.0 - 4.0, "as the last report says, less the time since"
    assert shown[1].left_s is None, "nobody knows how long its sound is"


def test_time_left_follows_the_pace_of_ended_runs() -> None:
    short, long = stored(AUDIO, "short.wav", 10.0), stored(AUDIO, "long.wav", 30.0)
    picture = stored(IMAGE, "anna.png")
    done = run("done", Completed(), took=20.0, audio=str(short.path))
    here = run("here", Running(), ago=5, audio=str(short.path), image=str(picture.path))
    behind = run("behind", Scheduled(), audio=str(long.path))
    shown = listed([behind, here, done], [artifact(done, REPORT, f"x/runs/{RUN_ID}/report.html")], NOW)
    assert [(job.name, job.left_s) for job in shown] == [("here", 15.0), ("behind", 75.0)]
    assert shown[0].image == picture.id


class Server:
    """Runs as Prefect keeps them: it gives those of a state and a time, sorted, and no more than are asked for."""

    def __init__(self, runs: list[FlowRun]) -> None:
        self.runs = runs
        self.named: list[str] = []

    def read_flow_runs(
        self, *, flow_filter: Any, flow_run_filter: filters.FlowRunFilter, sort: FlowRunSort, limit: int
    ) -> list[FlowRun]:
        kinds, begin, end = flow_run_filter.state.type, flow_run_filter.expected_start_time, flow_run_filter.end_time
        found = [
            run
            for run in self.runs
            if (not kinds.any_ or run.state_type in kinds.any_)
            and run.state_type not in (kinds.not_any_ or ())
            and (begin is None or run.expected_start_time <= begin.before_)
            and (end is None or run.end_time >= end.after_)
        ]
        key = "end_time" if "END_TIME" in sort.value else "expected_start_time"
        return sorted(found, key=lambda run: getattr(run, key), reverse=sort.value.endswith("DESC"))[:limit]

    def read_artifacts(self, **_: Any) -> list[Artifact]:
        return []

    def read_task_runs(self, **_: Any) -> list[Any]:
        return []

    def read_deployment_by_name(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(id=name)

    def create_flow_run_from_deployment(self, _: str, *, parameters: dict[str, Any], name: str) -> SimpleNamespace:
        self.named.append(name)
        return SimpleNamespace(id=uuid4())


def test_the_job_at_work_is_listed_however_many_wait_or_are_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    ago = (NOW - now).total_seconds()
    planned = [run("tomorrow", Scheduled(), ago=ago - 3600 * n) for n in range(1, 101)]
    waiting = [run(f"waits {n}", Scheduled(), ago=ago + 100 - n) for n in range(70)]
    here = run("here", Running(), ago=ago + 500)
    old = [run("old", Failed(), ago=ago + 9000).model_copy(update={"end_time": now - timedelta(days=2)})]
    lately = [run("refused", Failed(), ago=ago + 9000).model_copy(update={"end_time": now})]
    server = Server([*planned, *waiting, here, *old, *lately])
    monkeypatch.setattr(jobs, "get_client", lambda sync_client: nullcontext(server))
    names = [job.name for job in jobs.PrefectQueue().jobs()]
    assert names[:3] == ["here", "waits 0", "waits 1"]
    assert names[-1] == "refused"
    assert not {"tomorrow", "old"} & set(names)


def test_a_job_has_its_name_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server([])
    monkeypatch.setattr(jobs, "get_client", lambda sync_client: nullcontext(server))
    jobs.PrefectQueue().start({"audio": "in/anna.wav", "image": "face.png", "prompt": "p", "seed": 7})
    assert server.named == ["anna-face-7"]
    waits = run("gifted-peacock", Scheduled(), audio="anna.wav", image="face.png")
    named = run("morning-news", Scheduled(), audio="anna.wav", image="face.png")
    assert [job.name for job in listed([waits, named], [], NOW)] == ["anna-face-420", "morning-news"]


def test_seconds_that_have_passed_are_not_told_as_time_left() -> None:
    lost, judged = run("lost", Scheduled(), ago=900), run("judged", Running(), ago=90)
    artifacts = [
        artifact(lost, PROGRESS, 5.0, ago=800, updated=790),
        artifact(judged, PROGRESS, 100.0, ago=60, updated=9),
    ]
    shown = listed([lost, judged], artifacts, NOW)
    assert [(job.name, job.left_s) for job in shown] == [("judged", None), ("lost", None)]
    sound = stored(AUDIO, "short.wav", 10.0)
    late, done = (
        run("late", Running(), ago=50, audio=str(sound.path)),
        run("done", Completed(), took=20.0, audio=str(sound.path)),
    )
    (job,) = listed([late, done], [artifact(done, REPORT, f"x/runs/{RUN_ID}/report.html")], NOW)
    assert job.left_s is None, "it takes longer than the others did"


def test_an_end_without_a_video_is_told_and_one_with_a_video_is_a_result() -> None:
    refused, judged = run("refused", Failed(message="the disk is full")), run("judged", Failed(message="failed: lips"))
    cancelled = run("cancelled", Cancelled())
    missed = run("missed", Cancelled(name=SKIPPED))
    shown = listed([refused, judged, cancelled, missed], [artifact(judged, REPORT, f"runs/{RUN_ID}/report.html")], NOW)
    assert [(job.name, job.state, job.label) for job in shown] == [
        ("refused", ENDED, "Failed"),
        ("cancelled", ENDED, "Cancelled"),
    ]
    assert shown[0].message == "the disk is full"


def test_of_two_links_the_newest_counts() -> None:
    again = run("again", Running(), ago=60)
    links = [artifact(again, LIVE, f"#{RUN_ID}", ago=1), artifact(again, LIVE, f"#{'f' * 32}", ago=50)]
    assert listed([again], links, NOW)[0].live == RUN_ID


@pytest.mark.parametrize("job_id", ["", "1", "../flows", "a" * 36])
@pytest.mark.parametrize("action", ["cancel", "go_on"])
def test_cancelling_and_going_on_take_ids_only(action: str, job_id: str) -> None:
    with pytest.raises(InputError, match="no such job"):
        getattr(jobs.PrefectQueue(), action)(job_id)


REFUSED = "Flow run encountered an exception: InputError: voice.wav: it is silent"
LOST_ENGINE = "Flow run encountered an exception: CapacityError: the engine was lost four times"


@pytest.mark.parametrize(
    ("state", "served", "can"),
    [
        pytest.param(Crashed(message=f"exit code -9; {WAY}"), True, True, id="its process was killed"),
        pytest.param(Cancelled(), True, True, id="cancelled"),
        pytest.param(Failed(message=LOST_ENGINE), True, True, id="its engine was lost"),
        pytest.param(Failed(message=REFUSED), True, False, id="its sound is refused"),
        pytest.param(Failed(message="Validation of flow parameters failed with"), True, False, id="a wrong option"),
        pytest.param(Crashed(message=f"exit code -9; {WAY}"), False, False, id="of a command: its terminal goes on"),
        pytest.param(Running(), True, False, id="at work"),
        pytest.param(Completed(), True, False, id="made"),
    ],
)
def test_a_job_that_ended_early_goes_on(
    monkeypatch: pytest.MonkeyPatch, state: State[Any], served: bool, can: bool
) -> None:
    one = run("one", state, audio="voice.wav").model_copy(update={"deployment_id": uuid4() if served else None})
    changed: dict[str, Any] = {}

    class Client:
        def read_flow_run(self, run_id: str) -> FlowRun:
            assert run_id == str(one.id)
            return one

        def update_flow_run(self, _: UUID, *, parameters: dict[str, Any]) -> None:
            changed.update(parameters["parameters"])

        def set_flow_run_state(self, _: UUID, state: State[Any], *, force: bool) -> None:
            changed.update(state=state.name, forced=force)

    monkeypatch.setattr(jobs, "get_client", lambda sync_client: nullcontext(Client()))
    for job in listed([one], [], NOW):
        assert job.can_go_on == can
        assert (WAY in job.message) == (state.is_crashed() and not served), "who has a button needs no command"
    if can:
        jobs.PrefectQueue().go_on(str(one.id))
        assert changed == {"audio": "voice.wav", "resume": True, "state": "Resuming", "forced": True}
    else:
        with pytest.raises(InputError, match="cannot go on"):
            jobs.PrefectQueue().go_on(str(one.id))
        assert changed == {}


def test_progress_of_an_earlier_start_says_nothing_of_this_one() -> None:
    again = run("again", Running(timestamp=NOW - timedelta(seconds=10)), ago=500).model_copy(update={"run_count": 2})
    old = artifact(again, PROGRESS, 50.0, ago=400, updated=300)
    (before,) = listed([again], [old], NOW)
    assert (before.percent, before.left_s) == (None, None)
    (since,) = listed([again], [old, artifact(again, PROGRESS, 60.0, ago=8, updated=2)], NOW)
    assert (since.percent, since.left_s) == (60.0, 4.0 - 2.0)


def test_a_job_that_is_being_cancelled_takes_no_more_time() -> None:
    going, behind = run("going", Cancelling(), ago=60), run("behind", Scheduled(), audio="x.wav")
    first, second = listed([going, behind], [artifact(going, PROGRESS, 25.0, ago=34, updated=4)], NOW)
    assert (first.state, first.label, first.left_s) == (RUNNING, "Cancelling", None)
    assert second.name == "behind"


def test_the_form_in_prefect_names_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    stored(AUDIO, "anna.wav")
    written: list[DeploymentUpdate] = []

    class Client:
        def read_deployment_by_name(self, name: str) -> SimpleNamespace:
            assert name == "render/render"
            return SimpleNamespace(id=uuid4(), entrypoint="../../elsewhere/flows/render.py:render")

        def update_deployment(self, _: UUID, update: DeploymentUpdate) -> None:
            written.append(update)

    monkeypatch.setattr(jobs, "get_client", lambda sync_client: nullcontext(Client()))
    jobs.PrefectQueue().renew_form()
    (update,) = written
    assert update.model_fields_set == {"parameter_openapi_schema"}, "nothing else of the deployment changes"
    assert "a file of the studio page: anna.wav" in json.dumps(update.parameter_openapi_schema)


def test_memory_and_its_warnings_are_shown_while_a_run_is_at_work() -> None:
    going, done = run("going", Running(), ago=100), run("done", Failed(), ago=200)
    told = "render\n1.2 GB; machine 15.0 of 16.0 GB\nthe memory of the machine is nearly full: end other programs"
    artifacts = [artifact(of, PROGRESS, 50.0, ago=60).model_copy(update={"description": told}) for of in (going, done)]
    first, second = listed([done, going], artifacts, NOW)
    assert (first.memory, first.short) == ("1.2 GB; machine 15.0 of 16.0 GB", (told.splitlines()[2],))
    assert (second.memory, second.short) == (None, ())
    (plain_one,) = listed([going], [artifact(going, PROGRESS, 50.0).model_copy(update={"description": "render"})], NOW)
    assert (plain_one.memory, plain_one.short) == (None, ())
