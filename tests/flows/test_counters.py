"""Counters of renders: they add up over runs, threads and restarts, and never cost a render."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.counters import read_counters, tallied
from liveavatar import paths
from liveavatar.errors import CapacityError, InputError, Interrupted
from tasks.events import Event, emit


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def render(blocks: int) -> None:
    with tallied():
        for done in range(1, blocks + 1):
            emit(Event(kind="progress", stage="render", done=done, total=blocks))


def test_runs_side_by_side_add_up(home: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(render, [3] * 8))
    counts, running = read_counters()
    assert (counts["blocks"], running) == (24, {})


def test_blocks_before_a_resume_are_not_counted_again() -> None:
    with tallied():
        for done in (9, 10):
            emit(Event(kind="progress", stage="render", done=done, total=10))
        emit(Event(kind="progress", stage="decode", done=10, total=10))
    assert read_counters()[0]["blocks"] == 2


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("no sound"), "refused"),
        (CapacityError("too large"), "refused"),
        (Interrupted("stopped"), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
        (ValueError("a fault"), "error"),
    ],
)
def test_a_run_that_ends_with_an_error_is_counted(error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), tallied():
        raise error
    assert dict(read_counters()[0]) == {f"runs/{status}": 1}


def test_a_damaged_file_begins_anew_and_one_that_cannot_be_written_costs_nothing(home: Path) -> None:
    home.mkdir()
    paths.counters().write_text('{"counts": [')
    render(2)
    assert read_counters()[0]["blocks"] == 2
    paths.counters().unlink()
    paths.counters().mkdir()
    render(2)
    assert read_counters()[0] == {}


def test_progress_that_nobody_renews_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with tallied() as tally:
        emit(Event(kind="progress", stage="render", done=1, total=4, fps=5.0))
        tally.write()
        assert [job["fps"] for job in read_counters()[1].values()] == [5.0]
        monkeypatch.setattr("flows.counters.FRESH_SECONDS", 0.0)
        assert read_counters()[1] == {}
