"""Our own Prefect server: its end, its loss, and its start with a database that cannot be used."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from flows.serving import prefect_server
from flows.serving.prefect_database import DatabaseLock
from flows.serving.prefect_server import PrefectServer, run_dir, served_by
from flows.serving.process_record import own_process
from liveavatar.errors import CapacityError
from liveavatar.files import write_json
from liveavatar.hardware import free_port
from tasks.health import is_healthy
from tests.flows.shop import Shop

POSTGRES = shutil.which("postgres")


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
import http.server, os, signal, sys, time
database = os.path.join(os.environ["PREFECT_HOME"], "prefect.db")
if os.path.exists(database) and not open(database, "rb").read().startswith(b"SQLite"):
    sys.exit(3)
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


def test_a_home_beside_which_the_database_would_lie_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "what?"))
    with pytest.raises(CapacityError, match="question mark in its name; set LIVEAVATAR_HOME"), PrefectServer():
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("stand_in")
def test_a_port_where_another_server_listens_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(prefect_server, "RELEASE_SECONDS", 0.0)
    with PrefectServer() as first:
        first.wait()
        port = int(first.url.split(":")[2].removesuffix("/api"))
        monkeypatch.delenv("PREFECT_API_URL")
        monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "other"))
        monkeypatch.delenv("PREFECT_HOME")
        with pytest.raises(CapacityError, match=rf"port {port}: another .*--port {port + 10}"):
            PrefectServer(port=port).__enter__()
        assert is_healthy(first.url, 5)


@pytest.mark.usefixtures("stand_in")
def test_of_two_records_of_one_address_that_of_a_living_process_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    with PrefectServer() as server:
        server.wait()
        monkeypatch.delenv("PREFECT_API_URL")
        run_dir().mkdir(parents=True, exist_ok=True)
        killed = {"pid": os.getpid(), "created": 1.0, "url": server.url, "ray": "127.0.0.1:1"}
        write_json(run_dir() / "serve-1.json", killed)
        assert served_by()["ray"] == "127.0.0.1:1", "of a process that is not seen from here"
        write_json(run_dir() / "serve-2.json", {**own_process(), "url": server.url, "ray": "127.0.0.1:2"})
        assert served_by() == {"url": server.url, "ray": "127.0.0.1:2"}


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
def test_a_server_that_its_database_keeps_from_starting_gets_a_new_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "home" / "prefect"
    home.mkdir(parents=True)
    lock = DatabaseLock(home)
    lock.acquire()
    lock.mark_created()
    (home / "prefect.db").write_bytes(b"no database" * 1000)
    lock.close(cleanly=True)  # as a disk does that loses bits later
    with PrefectServer() as server:
        server.wait()
        assert is_healthy(server.url, 1)
        assert (home / "database_version").exists()
    assert caplog.text.count("are damaged; they were moved to") == 1
    assert "takes its place" not in caplog.text
    assert not (home / "prefect.db").exists()
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
    running = list[psutil.Process]()
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.ZombieProcess):  # it may end at any moment
            if "--port" in process.cmdline():
                running.append(process)
    return running


def strike_child(number: int) -> None:
    """Send a signal to the server of this process, and wait until nobody answers."""
    (process,) = servers()
    process.send_signal(number)
    wait_for(lambda: process not in servers() or not is_healthy(os.environ["PREFECT_API_URL"], 0.2))


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@contextmanager
def postgres(databases: Path) -> Iterator[int]:
    """Run a PostgreSQL of our own with the user `prefect`; yield its port."""
    assert POSTGRES is not None
    programs = Path(POSTGRES).resolve().parent
    user = {"user": "postgres"} if os.geteuid() == 0 else {}  # it refuses to run as root
    if user:
        shutil.chown(databases, "postgres")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": databases, **user}
    data, port = databases / "data", free_port()
    subprocess.run([programs / "initdb", "-D", data, "-A", "trust", "-U", "prefect", "--no-sync"], check=True, **quiet)
    options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": databases, "fsync": "off"}
    settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    process = subprocess.Popen([programs / "postgres", "-D", data, "-p", str(port), *settings], **quiet)
    try:
        ready = [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
        wait_for(lambda: subprocess.run(ready, check=False, **quiet).returncode == 0)
        yield port
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def query(port: int, text: str, database: str = "prefect") -> list[str]:
    command = ["psql", "-h", "127.0.0.1", "-p", str(port), "-U", "prefect", "-At", "-c", text, database]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.skipif(POSTGRES is None, reason="no PostgreSQL here; `apt install postgresql` brings it")
def test_commands_at_once_share_a_server_with_postgresql(shop: Shop, tmp_path: Path) -> None:
    """As infra/compose.yaml has it: `prefect server start` with PostgreSQL, and commands that use it by its address."""
    with tempfile.TemporaryDirectory() as databases, postgres(Path(databases)) as port:
        query(port, "CREATE DATABASE prefect", "postgres")
        api_port = free_port()
        api = f"http://127.0.0.1:{api_port}/api"
        variables = {
            "PREFECT_HOME": str(tmp_path),
            "PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://prefect:x@127.0.0.1:{port}/prefect",
        }
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(api_port)]
        with (tmp_path / "server.log").open("w") as log:
            server = subprocess.Popen(command, cwd=tmp_path, env=shop.environment() | variables, stdout=log, stderr=log)
        try:
            wait_for(lambda: is_healthy(api, 2))
            jobs = [
                subprocess.Popen(
                    shop.command("render", *shop.job(out=f"out/{seed}", seed=str(seed))), cwd=shop.folder,
                    env=shop.environment() | {"PREFECT_API_URL": api}, stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                for seed in range(3)
            ]  # fmt: skip
            assert {job.wait(300) for job in jobs} <= {0, 1}, "a random model makes noise, so its quality may fail"
            runs = query(port, "SELECT name, state_type FROM flow_run ORDER BY name")
            assert [run.split("|")[0] for run in runs] == [f"voice-face-{seed}" for seed in range(3)]
            assert {run.split("|")[1] for run in runs} <= {"COMPLETED", "FAILED"}
            assert query(port, "SELECT count(*) FROM task_run WHERE state_type NOT IN ('COMPLETED', 'FAILED')") == ["0"]
            reports = query(port, "SELECT count(DISTINCT flow_run_id) FROM artifact WHERE key = 'render-report'")
            assert reports == ["3"]
        finally:
            server.terminate()
            server.wait(60)
