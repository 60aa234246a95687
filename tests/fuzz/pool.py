"""Long-lived child processes that read files, with a limit of time and memory for each file.

A child that crashes or hangs is replaced, and the file is reported with what happened.
"""

import contextlib
import os
import resource
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import TypeVar

import psutil

POLL_SECONDS = 0.2
DENIED_BYTES = 3_000_000_000  # of data; a child does not get more
Case = TypeVar("Case")
Reader = Callable[[str, Path], str]  # kind and path to "read" or "refused"; raises for a fault


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one file may cost."""

    seconds: float = 10.0  # of processor time
    idle_seconds: float = 20.0  # in which nothing is computed
    num_bytes: int = 1_000_000_000  # of memory, the interpreter and its libraries included


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one file."""

    status: str  # read, refused; or a fault: error, crash, hang, memory
    detail: str = ""
    seconds: float = 0.0
    peak_bytes: int = 0

    @property
    def is_fault(self) -> bool:
        """True unless the file was read or refused within the limits."""
        return self.status not in ("read", "refused")


class Child:
    """One child process; `read` replaces it when it has died."""

    def __init__(self, reader: Reader, limits: Limits) -> None:
        self._reader, self._limits = reader, limits
        self._context = get_context("spawn")
        self._start()

    def _start(self) -> None:
        self._connection, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(theirs, self._reader, self._limits), daemon=True)
        self._process.start()
        theirs.close()
        self._connection.recv()  # its libraries are loaded

    def read(self, kind: str, path: Path) -> Outcome:
        """Read one file in the child."""
        began = time.monotonic()
        process = psutil.Process(self._process.pid)
        used, idle = _cpu_seconds(process), 0.0
        try:
            self._connection.send((kind, str(path)))
            while not self._connection.poll(POLL_SECONDS):
                computed = _cpu_seconds(process) - used
                idle = 0.0 if process.status() == psutil.STATUS_RUNNING else idle + POLL_SECONDS
                if computed > self._limits.seconds or idle > self._limits.idle_seconds:
                    self.close()
                    self._start()
                    detail = f"no answer after {computed:.0f} s of processor time, idle for {idle:.0f} s"
                    return Outcome(status="hang", detail=detail, seconds=computed)
            outcome: Outcome = self._connection.recv()
        except (EOFError, ConnectionError, psutil.NoSuchProcess):
            self._process.join(5)
            code = self._process.exitcode
            self.close()
            self._start()
            return Outcome(status="crash", detail=f"exit code {code}", seconds=time.monotonic() - began)
        return outcome

    def close(self) -> None:
        """End the child."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def read_all(
    cases: Iterable[Case],
    prepare: Callable[[Case], tuple[str, Path]],
    reader: Reader,
    workers: int = 1,
    limits: Limits | None = None,
) -> Iterator[tuple[Case, Outcome]]:
    """Read the files of all cases in children, several side by side; yield them in order.

    Args:
        cases: in any form.
        prepare: writes the file of a case and returns its kind and path.
        reader: a function of a module; runs in the children.
        workers: number of children.
        limits: of one file.
    """
    free: list[Child] = []
    lock = Lock()

    def work(case: Case) -> tuple[Case, Outcome]:
        with lock:
            child = free.pop() if free else None
        child = child or Child(reader, limits or Limits())
        try:
            return case, child.read(*prepare(case))
        finally:
            with lock:
                free.append(child)

    try:
        with ThreadPoolExecutor(workers) as threads:
            yield from threads.map(work, cases)
    finally:
        for child in free:
            child.close()


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _serve(connection: Connection, reader: Reader, limits: Limits) -> None:
    """Answer requests until the parent is gone."""
    resource.setrlimit(resource.RLIMIT_DATA, (DENIED_BYTES, DENIED_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders in C complain there
    connection.send("ready")
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            kind, path = connection.recv()
            connection.send(_outcome(reader, kind, Path(path), limits))


def _outcome(reader: Reader, kind: str, path: Path, limits: Limits) -> Outcome:
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak of memory
    began = time.process_time()
    try:
        status, detail = reader(kind, path), ""
    except Exception as e:  # noqa: BLE001 (each is a fault to report)
        where = traceback.extract_tb(e.__traceback__)[-1]
        status = "memory" if isinstance(e, MemoryError) else "error"
        detail = f"{type(e).__name__}: {e} ({Path(where.filename).name}:{where.lineno})"[:600]
    seconds, peak = time.process_time() - began, _peak_bytes()
    if peak > limits.num_bytes and status in ("read", "refused"):
        status, detail = "memory", f"{peak / 1e9:.2f} GB"
    if seconds > limits.seconds and status in ("read", "refused"):
        status, detail = "hang", f"{seconds:.0f} s"
    return Outcome(status=status, detail=detail, seconds=seconds, peak_bytes=peak)


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
