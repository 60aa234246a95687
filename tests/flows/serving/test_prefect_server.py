"""The database of Prefect when commands start at one moment: one server creates it, the others wait."""

import contextlib
import logging
import os
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWaiting
from pathlib import Path

import psutil
import pytest

from flows.serving import prefect_server
from flows.serving.prefect_server import DatabaseLock, PrefectServer, is_damaged
from liveavatar.errors import CapacityError
from tasks.health import is_healthy


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
    monkeypatch.setattr(prefect_server, "SILENT_SECONDS", 0.1)
    monkeypatch.setattr(prefect_server, "START_SECONDS", 0.1)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    first, second = DatabaseLock(tmp_path), DatabaseLock(tmp_path)
    first.acquire()
    with caplog.at_level(logging.WARNING), pytest.raises(CapacityError, match="waited over"):
        second.acquire()
    assert "waits for another command" in caplog.text
    first.release()


def test_an_interruption_ends_a_server_that_is_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stubborn = tmp_path / "python"
    stubborn.write_text("#!/bin/sh\ntrap '' TERM\nsleep 60 & wait; wait\n")
    stubborn.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stubborn))
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    for name in ("PREFECT_HOME", "PREFECT_API_URL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), PrefectServer():
        raise KeyboardInterrupt
    assert time.monotonic() - started < 5
    again = DatabaseLock(tmp_path / "home" / "prefect")
    again.acquire()
    assert again.creating
    again.release()


STAND_IN = """#!{python}
import http.server, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(1000))
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""


@pytest.mark.parametrize(("free", "message"), [(1000, "the disk is full"), (10**9, "ended while it started")])
def test_a_server_that_cannot_start_says_why(
    free: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    for name in ("PREFECT_HOME", "PREFECT_API_URL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(CapacityError, match=message), PrefectServer() as server:
        server.wait()


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small program in place of Prefect's server; Ctrl-C ends it with exit code 0, as it ends uvicorn."""
    python = tmp_path / "python"
    python.write_text(STAND_IN.format(python=sys.executable))
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    for name in ("PREFECT_HOME", "PREFECT_API_URL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("stand_in")
def test_a_server_that_is_killed_is_replaced_at_its_address(caplog: pytest.LogCaptureFixture) -> None:
    with PrefectServer() as server:
        server.wait()
        for number in range(1, prefect_server.MAX_STARTS):
            strike_child(signal.SIGKILL)
            wait_for(lambda: is_healthy(server.url, 1))
            assert caplog.text.count("(signal 9); another one takes its place") == number
        strike_child(signal.SIGKILL)
        wait_for(lambda: "(signal 9) again" in caplog.text)
        assert not is_healthy(server.url, 1)
    assert not servers()


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("number", "line"),
    [
        pytest.param(signal.SIGINT, "was ended (exit code 0)", id="Ctrl-C"),
        pytest.param(signal.SIGSTOP, "hung and was killed", id="stopped for good"),
        pytest.param(signal.SIGUSR1, "hung and was killed", id="runs and never answers"),
    ],
)
def test_a_server_that_ends_or_hangs_is_replaced_within_seconds(
    number: int, line: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prefect_server, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(prefect_server, "WATCH_SECONDS", 0.05)
    with PrefectServer() as server:
        server.wait()
        strike_child(number)
        wait_for(lambda: f"the Prefect server {line}; another one takes its place" in caplog.text)
        wait_for(lambda: is_healthy(server.url, 1))
    assert not servers()


@pytest.mark.usefixtures("stand_in")
def test_a_server_that_is_slow_for_a_moment_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prefect_server, "LOOK_SECONDS", 0.5)
    monkeypatch.setattr(prefect_server, "STOPPED_LOOKS", 1000)
    with PrefectServer() as server:
        server.wait()
        (process,) = servers()
        process.suspend()
        assert not is_healthy(server.url, 2)
        process.resume()
        wait_for(lambda: is_healthy(server.url, 1))
        assert servers() == [process]
    assert "takes its place" not in caplog.text


def servers() -> list[psutil.Process]:
    """Return the servers that this process has started and that run."""
    running = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
    return [p for p in running if "--port" in p.cmdline()]


def strike_child(number: int) -> None:
    """Send a signal to the server of this process, and wait until nobody answers."""
    (process,) = servers()
    process.send_signal(number)
    wait_for(lambda: process not in servers() or not is_healthy(os.environ["PREFECT_API_URL"], 0.2))


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_a_damaged_version_of_the_database_is_another_one(tmp_path: Path) -> None:
    first, second = DatabaseLock(tmp_path), DatabaseLock(tmp_path)
    first.acquire()
    first.mark_created()
    (tmp_path / "database_version").write_bytes(b"\xf5\xff")
    second.acquire()
    assert second.creating
    second.mark_created()


@pytest.mark.parametrize("damage", ["a page", "half", "no database"])
def test_a_damaged_database_is_moved_aside(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    database = tmp_path / "prefect.db"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE runs (name TEXT)")
        connection.executemany("INSERT INTO runs VALUES (?)", [("x" * 1000,)] * 100)
        connection.commit()
    first, second, third = DatabaseLock(tmp_path), DatabaseLock(tmp_path), DatabaseLock(tmp_path)
    first.acquire()
    first.mark_created()
    second.acquire()
    assert not second.creating, "it is whole"
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


def test_no_database_is_not_a_damaged_one(tmp_path: Path) -> None:
    assert not is_damaged(tmp_path / "prefect.db")
    (tmp_path / "prefect.db").touch()
    assert not is_damaged(tmp_path / "prefect.db"), "SQLite takes an empty file for a new one"
