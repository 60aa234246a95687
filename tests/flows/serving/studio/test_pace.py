"""Time that a render takes: what is the same for every length apart from what grows with it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.states import Completed, Running, Scheduled

from flows.serving.studio.pace import Growth, fitted, left_of, pace_of
from flows.stored_inputs import AUDIO, StoredInput
from liveavatar.files import plain, write_json

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)

Made = tuple[FlowRun, Artifact]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    return tmp_path


def sound(seconds: float) -> str:
    """Store a sound of no content, and return its path."""
    made = StoredInput(id=f"{round(seconds * 10):032x}", kind=AUDIO, name=f"{seconds}.wav", seconds=seconds)
    write_json(made.path.parent.with_suffix(".json"), plain(made))
    made.path.parent.mkdir(exist_ok=True)
    made.path.touch()
    return str(made.path)


def asked(seconds: float, **facts: Any) -> FlowRun:
    """Make the record of a run with a sound of so many seconds."""
    options = {"audio": sound(seconds), "preset": facts.pop("preset", "fast")}
    state = facts.pop("state", Scheduled())
    return FlowRun(id=uuid4(), flow_id=uuid4(), state=state, parameters={"parameters": {"what": options}}, **facts)


def progress(of: FlowRun, created: datetime, updated: datetime, percent: float = 100.0) -> Artifact:
    """Make the progress of a run."""
    return Artifact(id=uuid4(), flow_run_id=of.id, data=percent, created=created, updated=updated)


def made(seconds: float, before: float, blocks: float, after: float, **facts: Any) -> Made:
    """Make a run that has ended, with its parts in seconds."""
    begun = NOW - timedelta(hours=1)
    first = begun + timedelta(seconds=before)
    last = first + timedelta(seconds=blocks)
    end = last + timedelta(seconds=after)
    run = asked(seconds, state=Completed(), start_time=begun, end_time=end, total_run_time=end - begun, **facts)
    return run, progress(run, first, last)


def whole(runs: list[Made], seconds: float, **facts: Any) -> float | None:
    """Expect the duration of a run from others."""
    pace = pace_of([run for run, _ in runs], {run.id: of for run, of in runs}, asked(seconds, **facts))
    return None if pace is None else round(pace.whole(seconds), 3)


def test_start_up_does_not_grow_with_the_sound() -> None:
    short = made(3.0, before=18.0, blocks=3.0, after=5.0)
    assert whole([short], 3.0) == 26.0
    assert whole([short], 60.0) == 18.0 + 60.0 + 5.0, "the blocks alone grow; a share of all would be 520 s"


def test_two_lengths_tell_what_grows_in_each_part() -> None:
    cost: Callable[[float], Made] = lambda s: made(s, before=16 + s / 4, blocks=1 + s, after=3 + s / 2)  # noqa: E731
    runs = [cost(4.0), cost(5.0), cost(40.0)]
    for seconds in (1.0, 10.0, 600.0):
        assert whole(runs, seconds) == pytest.approx(20 + 1.75 * seconds, abs=0.01)


@pytest.mark.parametrize(
    ("points", "line"),
    [
        pytest.param([(10.0, 5.0)], Growth(5.0, 0.0), id="one"),
        pytest.param([(10.0, 5.0), (11.0, 9.0)], Growth(7.0, 0.0), id="nearly one length"),
        pytest.param([(10.0, 15.0), (20.0, 25.0)], Growth(5.0, 1.0), id="two lengths"),
        pytest.param([(10.0, 15.0), (20.0, 9.0)], Growth(12.0, 0.0), id="falling: another machine was slow"),
        pytest.param([(10.0, 1.0), (20.0, 21.0)], Growth(2.375, 0.575), id="steeper than its shares"),
        pytest.param([(10.0, 15.0), (20.0, 25.0), (20.0, 400.0), (40.0, 45.0)], Growth(5.0, 1.0), id="an outlier"),
    ],
)
def test_a_line_is_robust(points: list[tuple[float, float]], line: Growth) -> None:
    found = fitted(points)
    assert (found.fixed, found.slope) == (pytest.approx(line.fixed), pytest.approx(line.slope))


def test_what_blocks_cost_is_taken_to_grow() -> None:
    assert fitted([(10.0, 5.0)], grows=True) == Growth(0.0, 0.5)


def test_jobs_of_the_same_preset_count_first() -> None:
    fast, fine = made(10.0, 10.0, 10.0, 10.0), made(10.0, 10.0, 70.0, 10.0, preset="quality")
    assert whole([fast, fine], 10.0) == 30.0
    assert whole([fast, fine], 10.0, preset="quality") == 90.0
    assert whole([fine], 10.0) == 90.0, "better than nothing"


def test_a_run_that_was_resumed_or_made_no_blocks_tells_nothing() -> None:
    plain_one, resumed = made(10.0, 10.0, 10.0, 10.0), made(10.0, 10.0, 5000.0, 10.0, run_count=2)
    stored = made(10.0, 2.0, 0.0, 1.0)
    assert whole([stored, resumed, plain_one], 10.0) == 30.0
    assert whole([resumed], 10.0) is None
    assert whole([stored], 20.0) == 6.0, "its duration is all that is known"


def test_the_time_left_counts_what_comes_after_the_blocks() -> None:
    ended, of = made(10.0, 20.0, 10.0, 8.0)
    here = asked(10.0, state=Running(), start_time=NOW - timedelta(seconds=30))
    pace = pace_of([ended], {ended.id: of}, here)

    def left(percent: float, ago: float, updated: float) -> float | None:
        at = [NOW - timedelta(seconds=seconds) for seconds in (ago, updated)]
        return left_of(here, progress(here, *at, percent), pace, NOW)

    assert left_of(here, None, pace, NOW) == 38.0 - 30.0
    assert left(50.0, ago=6.0, updated=1.0) == 5.0 - 1.0 + 8.0
    assert left(100.0, ago=10.0, updated=3.0) == 8.0 - 3.0
    assert left(100.0, ago=30.0, updated=20.0) is None, "it takes longer than others did"
    assert left_of(here, None, None, NOW) is None
