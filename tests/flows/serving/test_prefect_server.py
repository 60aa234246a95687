"""The database of Prefect when commands start at one moment: one server creates it, the others wait."""

from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWaiting
from pathlib import Path

import pytest

from flows.serving.prefect_server import DatabaseLock


def test_one_server_at_a_time_creates_the_database(tmp_path: Path) -> None:
    first, second, third = DatabaseLock(tmp_path), DatabaseLock(tmp_path), DatabaseLock(tmp_path)
    first.acquire()
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(second.acquire)
        with pytest.raises(StillWaiting):
            waiting.result(0.3)
        assert first.creating
        first.mark_created()
        waiting.result(60)
    third.acquire()
    assert [lock.creating for lock in (first, second, third)] == [False, False, False]


def test_another_version_of_prefect_creates_it_again(tmp_path: Path) -> None:
    first, second = DatabaseLock(tmp_path), DatabaseLock(tmp_path)
    first.acquire()
    first.mark_created()
    (tmp_path / "database_version").write_text("2.0.0")
    second.acquire()
    assert second.creating
    second.mark_created()
    assert not second.creating
