"""The database of Prefect when commands start at one moment: one server creates it, the others wait; damage to it."""

import contextlib
import logging
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWaiting
from pathlib import Path

import pytest

from flows.serving import prefect_database
from flows.serving.prefect_database import DatabaseLock, is_damaged
from liveavatar.errors import CapacityError


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


def test_a_database_that_was_not_finished_is_made_anew(tmp_path: Path) -> None:
    database = tmp_path / "prefect.db"
    killed, second, third = DatabaseLock(tmp_path), DatabaseLock(tmp_path), DatabaseLock(tmp_path)
    killed.acquire()
    database.write_text("half")
    assert killed.disposable
    killed.release()  # as the end of its process does
    second.acquire()
    assert not database.exists()
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE whole (name TEXT)")
    second.mark_created()
    (tmp_path / "database_version").write_text("2.0.0")
    third.acquire()
    assert b"whole" in database.read_bytes(), "it holds the runs of another version"
    assert not third.disposable
    third.release()


def test_the_wait_for_another_command_has_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prefect_database, "SILENT_SECONDS", 0.1)
    monkeypatch.setattr(prefect_database, "START_SECONDS", 0.1)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    first, second = DatabaseLock(tmp_path), DatabaseLock(tmp_path)
    first.acquire()
    with caplog.at_level(logging.WARNING), pytest.raises(CapacityError, match="waited over"):
        second.acquire()
    assert "waits for another command" in caplog.text
    first.release()


def test_a_damaged_version_of_the_database_is_another_one(tmp_path: Path) -> None:
    first, second = DatabaseLock(tmp_path), DatabaseLock(tmp_path)
    first.acquire()
    first.mark_created()
    (tmp_path / "database_version").write_bytes(b"\xf5\xff")
    second.acquire()
    assert second.creating
    second.mark_created()


def filled_database(home: Path) -> Path:
    """Make a database of some pages."""
    database = home / "prefect.db"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE runs (name TEXT)")
        connection.executemany("INSERT INTO runs VALUES (?)", [("x" * 1000,)] * 100)
        connection.commit()
    return database


def use(home: Path, *, cleanly: bool = True) -> None:
    """Do what a command with its server does, which ends by itself or is killed."""
    lock = DatabaseLock(home)
    lock.acquire()
    lock.mark_created()
    lock.close(cleanly=cleanly)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Databases whose pages were checked."""
    checked: list[Path] = []
    monkeypatch.setattr(prefect_database, "is_damaged", checked.append)
    return checked


def test_pages_are_checked_only_where_the_database_is_not_as_a_server_left_it(
    tmp_path: Path, checks: list[Path]
) -> None:
    database = filled_database(tmp_path)
    use(tmp_path)
    checks.clear()
    use(tmp_path)
    assert not checks, "it was left whole"
    database.touch()
    use(tmp_path)
    assert checks == [database], "somebody else has written it"
    use(tmp_path)
    (tmp_path / "prefect.db-wal").touch()
    use(tmp_path, cleanly=False)
    use(tmp_path, cleanly=False)
    assert len(checks) == 3, "the server before was killed"


def test_pages_that_another_command_uses_are_not_checked(tmp_path: Path, checks: list[Path]) -> None:
    database, first = filled_database(tmp_path), DatabaseLock(tmp_path)
    first.acquire()
    first.mark_created()
    checks.clear()
    database.touch()
    use(tmp_path)
    assert not checks
    first.close(cleanly=False)
    use(tmp_path)
    assert checks == [database], "the last to end was killed"


@pytest.mark.parametrize("damage", ["a page", "half", "no database"])
def test_a_damaged_database_is_moved_aside(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    database = filled_database(tmp_path)
    first, second, third = DatabaseLock(tmp_path), DatabaseLock(tmp_path), DatabaseLock(tmp_path)
    first.acquire()
    first.mark_created()
    second.acquire()
    assert not second.creating, "it is whole"
    for lock in (first, second):
        lock.close(cleanly=True)
    content = bytearray(database.read_bytes())
    if damage == "a page":
        content[len(content) // 2 // 4096 * 4096] ^= 0x80
    database.write_bytes({"a page": content, "half": content[: len(content) // 2], "no database": b"x" * 5000}[damage])
    (tmp_path / "prefect.db-wal").write_bytes(b"")
    third.acquire()
    assert third.creating
    assert third.disposable
    assert not database.exists()
    assert sorted(path.name for path in tmp_path.glob("damaged-*/*")) == ["prefect.db", "prefect.db-wal"]
    assert "are damaged; they were moved to" in caplog.text
    third.mark_created()


def test_a_damaged_database_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database, checked = filled_database(tmp_path), list[Path]()

    def check(path: Path) -> bool:
        checked.append(path)
        return is_damaged(path)

    monkeypatch.setattr(prefect_database, "is_damaged", check)
    use(tmp_path)
    database.write_bytes(database.read_bytes()[:5000])
    checked.clear()
    lock = DatabaseLock(tmp_path)
    lock.acquire()
    assert (lock.creating, checked) == (True, [database])
    lock.mark_created()


def test_a_database_is_replaced_where_its_server_does_not_come_up(tmp_path: Path) -> None:
    """Two commands find the damage at once: one makes room, the other goes on with what the first has made."""
    database, (first, second) = filled_database(tmp_path), (DatabaseLock(tmp_path), DatabaseLock(tmp_path))
    for lock in (first, second):
        lock.acquire()
        lock.mark_created()
        assert not lock.replace_damaged(), "it is whole"
        assert not lock.creating
    database.write_bytes(database.read_bytes()[:5000])
    assert first.replace_damaged()
    assert first.creating
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(second.replace_damaged)
        with pytest.raises(StillWaiting):
            waiting.result(0.3)
        filled_database(tmp_path)
        first.mark_created()
        assert waiting.result(60)
    assert second.creating
    second.mark_created()


def test_no_database_is_not_a_damaged_one(tmp_path: Path) -> None:
    assert not is_damaged(tmp_path / "prefect.db")
    (tmp_path / "prefect.db").touch()
    assert not is_damaged(tmp_path / "prefect.db"), "SQLite takes an empty file for a new one"
