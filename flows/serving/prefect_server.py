"""A Prefect server for as long as one command needs it.

With `PREFECT_API_URL` set, that server is used. Else, if `liveavatar serve` runs, its server is used. Else a server
of our own starts on a free port, with its database below our home, and ends with the command. It is started as a
process as early as possible, because it needs seconds to come up and the command can import its libraries meanwhile.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path
from types import TracebackType

from flows.serving import environment
from flows.serving.gate import own_origins
from flows.serving.prefect_database import SILENT_SECONDS, START_SECONDS, DatabaseLock, log_path, no_server
from flows.serving.process_record import process_of
from liveavatar import paths
from liveavatar.errors import CapacityError, Interrupted
from liveavatar.files import open_regular, read_json
from liveavatar.hardware import free_port, why_no_port
from liveavatar.isolation.worker import die_with_parent
from tasks.health import is_healthy, on_loopback

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05
STOP_SECONDS = 10.0
HURRY_SECONDS = 1.0  # for each step of the end after Ctrl-C
QUICK_SECONDS = 2.0  # in which a server that is not ours should answer
GRACE_SECONDS = 3  # for open connections, when somebody else ends our server
WATCH_SECONDS = 0.5  # between two looks whether our server still runs
LOOK_SECONDS = 2.0  # between two looks whether it answers, and for its answer
STOPPED_LOOKS, HUNG_LOOKS = 4, 12  # without an answer, after which a stopped server, or a running one, counts as lost
RELEASE_SECONDS = 5.0  # that a server which was killed keeps its port
MAX_STARTS = 4  # of our server by one command
CLEAN_ENDS = (0, -signal.SIGTERM)  # exit codes of a server that has closed its database
HOST = "127.0.0.1"


class PrefectServer:
    """Context manager: inside it, `PREFECT_API_URL` names a server that answers once `wait` returned."""

    def __init__(self, *, ui: bool = False, port: int | None = None) -> None:
        self._ui, self._port = ui, port
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._starts = 0
        self._pulse: Pulse | None = None
        self._ending = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._launching = threading.Lock()  # the process is not looked at while another one takes its place
        self._database: DatabaseLock | None = None
        served = served_by()
        self.url = os.environ.get("PREFECT_API_URL", "") or served.get("url", "")
        self.ray = served.get("ray", "")  # address of the Ray cluster that `liveavatar serve` keeps

    def __enter__(self) -> "PrefectServer":
        if os.environ.get("PREFECT_API_URL"):
            environment.expect_silence()
        if not self.url:
            self._start()
        os.environ["PREFECT_API_URL"] = self.url
        if on_loopback(self.url):
            environment.use_loopback()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._process is None:
            return
        os.environ.pop("PREFECT_API_URL", None)
        hurry = kind is not None and issubclass(kind, KeyboardInterrupt | Interrupted)
        seconds = HURRY_SECONDS if hurry else STOP_SECONDS
        _flush_logs(seconds)
        disposable = self._database is not None and self._database.disposable
        # A server that is ended while it migrates a database would break the next start.
        if not self._ready and not (hurry and disposable) and self._await_health(seconds if hurry else START_SECONDS):
            self._mark_created()
        self._ending.set()
        self._watching.join()
        self._process.terminate()
        self._process.send_signal(signal.SIGCONT)  # one that was stopped would stay
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._database is not None:
            self._database.close(cleanly=self._process.returncode in CLEAN_ENDS)

    @property
    def owned(self) -> bool:
        """True when the server ends with this command."""
        return self._process is not None

    @property
    def ui_url(self) -> str:
        """Address of the Prefect UI."""
        return self.url.removesuffix("/api")

    def wait_for_joined(self) -> None:
        """Return when a server that is not ours answers, before libraries are imported; at once with our own.

        Raises:
            CapacityError: it does not answer.
        """
        if not self.owned:
            self.wait()

    def wait(self) -> None:
        """Return when the server answers.

        Raises:
            CapacityError: it does not come up.
        """
        if self._ready:
            return
        if not self._await_health(START_SECONDS if self.owned else STOP_SECONDS) and not self._begin_anew():
            if self.owned:
                gone = self._process is not None and self._process.poll() is not None
                raise no_server("ended while it started" if gone else f"did not start within {START_SECONDS:.0f} s")
            raise CapacityError(
                f"no Prefect server answers at PREFECT_API_URL={self.url}; start it, or unset the variable"
            )
        self._ready = True
        self._mark_created()

    def _start(self) -> None:
        port = self._port or free_port()
        self.url = f"http://{HOST}:{port}/api"
        home = environment.prepare()
        if "?" in str(home):  # the rest of its name would be read as options of the database, which would lie beside it
            raise CapacityError(f"{home}: no database can lie in a folder with a question mark in its name; "
                                "set LIVEAVATAR_HOME to another folder")  # fmt: skip
        home.mkdir(parents=True, exist_ok=True)
        if self._port and (why := why_no_port(self._port, RELEASE_SECONDS)):
            raise CapacityError(f"port {self._port}: {why}; give another one, such as --port {_other(self._port)}")
        self._database = DatabaseLock(home)
        self._database.acquire()
        self._launch()
        self._watching.start()

    def _begin_anew(self) -> bool:
        """Tell if our server comes up after all, with a new database in place of a damaged one."""
        if self._database is None or self._process is None or not self._database.replace_damaged():
            return False
        with self._launching:
            self._process.kill()
            self._process.wait()
            self._launch()
        return self._await_health(START_SECONDS)

    def _launch(self) -> None:
        """Start the process of our server, at its address."""
        self._starts += 1
        home, port = environment.prepare(), urllib.parse.urlsplit(self.url).port
        assert port is not None
        command = [sys.executable, "-P", "-m", "uvicorn", "--factory", "flows.serving.gate:create_app"]
        command += ["--host", HOST, "--port", str(port), "--log-level", "error", "--lifespan", "on"]
        command += ["--timeout-graceful-shutdown", str(GRACE_SECONDS)]
        surroundings = environment.server_environment(home, self.url, ui=self._ui)
        surroundings["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"] = own_origins(port)
        with open_regular(log_path(), "ab") as output:
            self._process = subprocess.Popen(
                command,
                env=surroundings,
                cwd=home,  # it reads `prefect.toml` and `.env` there
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for us; the server ends after us
                preexec_fn=die_with_parent,
            )

        self._pulse = Pulse(self._process.pid, self.url)

    def _watch(self) -> None:
        """Start our server anew when it has ended or hangs: its clients find the other one at the same address."""
        while not self._ending.wait(WATCH_SECONDS):
            with self._launching:
                lost = self._lost()
                if not lost or self._ending.is_set():
                    continue
                if self._starts == MAX_STARTS:
                    log.warning("the Prefect server %s again; its record of this run stays incomplete", lost)
                    return
                log.warning("the Prefect server %s; another one takes its place", lost)
                if self._database is not None:
                    self._database.drop_unfinished()
                self._launch()

    def _lost(self) -> str:
        """Tell how our server was lost; empty while it runs, or when it could not start. One that hangs is killed."""
        assert self._process is not None
        assert self._pulse is not None
        code = self._process.poll()
        if code is not None and self._cannot_start(code):
            return ""
        if code is not None:
            return f"was killed (signal {-code})" if code < 0 else f"was ended (exit code {code})"
        if not self._pulse.hangs():
            return ""
        self._process.kill()
        self._process.wait()
        return "hung and was killed"

    def _cannot_start(self, code: int) -> bool:
        """Tell if the exit code is that of a first server that could not start; after Ctrl-C the code is 0."""
        answered = self._pulse is not None and self._pulse.answered
        return code > 0 and self._starts == 1 and not answered

    def _mark_created(self) -> None:
        if self._database is not None:
            self._database.mark_created()

    def _await_health(self, seconds: float) -> bool:
        started, noticed = time.monotonic(), False
        while time.monotonic() < started + seconds:
            if is_healthy(self.url, 5):
                if self._pulse is not None:
                    self._pulse.answered = True  # from now on silence is a fault, not a slow start
                return True
            if not noticed and time.monotonic() > started + (SILENT_SECONDS if self.owned else QUICK_SECONDS):
                noticed = True
                log.warning("waits for the Prefect server at %s (at most %.0f s)", self.url, seconds)
            code = self._process.poll() if self._process is not None else None
            if code is not None and (self._cannot_start(code) or self._starts == MAX_STARTS):  # else another is started
                return False
            time.sleep(POLL_SECONDS)
        return False


def _other(port: int) -> int:
    return port + 10 if 1024 <= port < 65_000 else 4210


class Pulse:
    """Tells by its answers whether a server hangs: it takes connections, even when its process is stopped."""

    def __init__(self, pid: int, url: str) -> None:
        self._pid, self._url = pid, url
        self._looked_at = time.monotonic()
        self._misses = 0
        self.answered = False  # at least once

    def hangs(self) -> bool:
        """Look whether it answers, unless the last look was just now; True when too many looks have failed."""
        if time.monotonic() - self._looked_at < LOOK_SECONDS:
            return False
        healthy = is_healthy(self._url, LOOK_SECONDS)
        self._looked_at = time.monotonic()
        self.answered = self.answered or healthy
        stopped = is_stopped(self._pid)
        # One that has not answered yet is starting, which may take long.
        self._misses = 0 if healthy or not (self.answered or stopped) else self._misses + 1
        return self._misses >= (STOPPED_LOOKS if stopped else HUNG_LOOKS)


def is_stopped(pid: int) -> bool:
    """Return True when a process runs no further until it gets SIGCONT."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    return False


def served_by() -> dict[str, str]:
    """Addresses of what `liveavatar serve` runs now: "url" of the server, "ray"; empty when it does not run.

    The record of one that was killed stays, with an address of the server that the next one may have again.
    """
    records = sorted(run_dir().glob("serve-*.json"), key=lambda record: process_of(record) is None)  # living ones first
    for record in records:
        try:
            facts = read_json(record)
            url, ray = str(facts["url"]), str(facts.get("ray", ""))
        except (OSError, ValueError, KeyError):
            continue
        if is_healthy(url, 2):
            return {"url": url, "ray": ray}
    return {}


def run_dir() -> Path:
    """Return the folder of the records of running commands, for `liveavatar stop`."""
    return paths.run()


def _flush_logs(seconds: float) -> None:
    """Send what Prefect's log handler still holds, before its server goes away."""
    if "prefect" in sys.modules:
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        APILogWorker.drain_all(timeout=seconds)
        EventsWorker.drain_all(timeout=seconds)
