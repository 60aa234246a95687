"""The database of Prefect when commands start at one moment: one server creates it, the others wait."""

import logging
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWaiting
from pathlib import Path

import psutil
import pytest

from flows.serving import prefect_server
from flows.serving.prefect_server import DatabaseLock, PrefectServer
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
    database.write_text("whole")
    second.mark_created()
    (tmp_path / "database_version").write_text("2.0.0")
    third.acquire()
    assert database.read_text() == "whole", "it holds the runs of another version"
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
import http.server, sys
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


def test_a_server_that_is_killed_is_replaced_at_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in = tmp_path / "python"
    stand_in.write_text(STAND_IN.format(python=sys.executable))
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    for name in ("PREFECT_HOME", "PREFECT_API_URL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    with PrefectServer() as server:
        server.wait()
        for number in range(1, prefect_server.MAX_STARTS):
            kill_child()
            wait_for(lambda: prefect_server.is_healthy(server.url, 1))
            assert caplog.text.count("(signal 9); another one takes its place") == number
        kill_child()
        wait_for(lambda: "killed again" in caplog.text)
        assert not prefect_server.is_healthy(server.url, 1)
    assert not servers()


def servers() -> list[psutil.Process]:
    """Return the servers that this process has started and that run."""
    running = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
    return [p for p in running if "--port" in p.cmdline()]


def kill_child() -> None:
    """Kill the server of this process, and wait until nobody answers."""
    (process,) = servers()
    process.kill()
    wait_for(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
