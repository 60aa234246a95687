"""Calls in a worker process: a crash, a hang or a bomb of memory in a decoder becomes one refusal of the file.

A worker (`liveavatar.isolation.worker`) is started by the first call, serves those that follow, ends when it is idle or
this process ends, and is replaced when it is lost. Calls at the same time have a worker each. Typed errors of the
called function and its log records come out here as they are.
"""

import atexit
import json
import logging
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from liveavatar import paths
from liveavatar.errors import CapacityError, InputError
from liveavatar.isolation.worker import MEMORY, found, name_of

log = logging.getLogger(__name__)

START_SECONDS = 180.0  # for a worker to come up and import what it calls
SILENT_SECONDS = 60.0  # without progress, after which a call is given up
NOTICE_SECONDS = 8.0  # without progress, after which a line says so
MEMORY_BYTES = 3_000_000_000  # that a call may take: three hours of sound, or a picture of 100 megapixels
LOOK_SECONDS = 1.0  # between two looks at a worker that is silent
END_SECONDS = 2.0  # for an idle worker to end by itself
THREADS = (
    4  # of a worker's libraries: three copies of OpenBLAS with a buffer for each of 32 cores pass its memory limit
)
THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
ATTEMPTS = 2  # a worker that was killed or stopped by somebody is no fault of the file
MODULE = "liveavatar.isolation.worker"


class WorkerLost(Exception):
    """A worker was ended or stopped by a signal before its answer."""


class Connection:
    """A worker process, and this end of its socket."""

    def __init__(self) -> None:
        self._stderr: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        self._socket, other = socket.socketpair()
        with other:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", MODULE, str(other.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                env=_environment(),
                pass_fds=[other.fileno()],
                start_new_session=True,  # Ctrl-C is for us
            )
        self._unread = b""

    def send(self, request: dict[str, Any], result: int) -> None:
        """Send a request, with the descriptor of the file for its array."""
        try:
            socket.send_fds(self._socket, [b"+"], [result])
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except ConnectionError as e:
            raise self.loss() from e

    def receive(self, seconds: float) -> dict[str, Any]:
        """Wait for the next answer.

        Raises:
            TimeoutError: none came.
            WorkerLost: a signal ended the worker.
            RuntimeError: an error of ours ended it.
        """
        deadline = time.monotonic() + seconds
        while b"\n" not in self._unread:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                part = self._socket.recv(65_536)
            except ConnectionError as e:
                raise self.loss() from e
            if not part:
                raise self.loss()
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def loss(self) -> Exception:
        """Wait for the end of a worker whose connection is closed; return the error that names its reason."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(END_SECONDS)
        code = self.process.returncode
        if not code:
            return WorkerLost("it ended")
        if code < 0:
            return WorkerLost(signal.Signals(-code).name)
        self._stderr.seek(0)
        story = self._stderr.read().decode(errors="replace").strip()
        error = RuntimeError(story.rpartition("\n")[2] or f"a worker process ended with code {code}")
        error.add_note(story)
        return error

    def check_running(self) -> None:
        """Look whether a signal has stopped the process (Linux).

        Raises:
            WorkerLost: it has.
        """
        state = ""
        with suppress(OSError):
            state = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state in ("t", "T"):
            raise WorkerLost("SIGSTOP")

    def end(self, seconds: float = 0.0) -> None:
        """Close the connection, which ends an idle worker; kill one that has not ended after so many seconds."""
        self._socket.close()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._stderr.close()


class Workers:
    """The worker processes of this one; those that are idle are kept for the next call."""

    def __init__(self, silent_s: float = SILENT_SECONDS, notice_s: float = NOTICE_SECONDS) -> None:
        """Make the pool; it starts nothing.

        Args:
            silent_s: a call without progress for so long is given up.
            notice_s: a call without progress for so long is named in a log record.
        """
        self._silent_s, self._notice_s = silent_s, notice_s
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._owner = os.getpid()
        atexit.register(self.end)

    def call(
        self,
        function: Callable[..., Any],
        source: Path | str,
        *arguments: Any,
        memory_bytes: int = MEMORY_BYTES,
        beats: bool = False,
    ) -> Any:
        """Call `function(source, *arguments)` in a worker.

        Args:
            function: of a module; returns an array, or something JSON knows (see `liveavatar.files.plain`).
            source: the user's file, which refusals name; relative to the working directory.
            arguments: of kinds that JSON knows.
            memory_bytes: limit of what the call may allocate.
            beats: whether the function takes `on_progress` and calls it while it works: the time limit then holds for
                its longest pause, and for the whole call otherwise.

        Raises:
            InputError: the call crashed, hung, or took too much memory.
            LiveAvatarError: the function raised it.
            RuntimeError: the function raised another error; a note holds the traceback.
        """
        request = {
            "function": name_of(function),
            "source": str(source),
            "arguments": arguments,
            "folder": str(Path.cwd()),
            "memory_bytes": memory_bytes,
            "beats": beats,
        }
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with _shared_file() as file:
                    with self._taken() as worker:
                        worker.send(request, file.fileno())
                        answer = self._answer(worker, str(source))
                        _check_memory(answer, request)
                    return _result(answer, file)
            except WorkerLost as e:
                if attempt == ATTEMPTS:
                    raise InputError(
                        f"{source}: reading it crashes ({e}); the file is damaged or of an unusual kind: convert it "
                        "with another program and give the new file"
                    ) from e
                log.debug("%s: the process that read it was lost (%s)", source, e)
        raise AssertionError("the loop returns or raises")

    def end(self) -> None:
        """End the idle workers."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle if self._owner == os.getpid() else ():
            worker.end(END_SECONDS)

    @contextmanager
    def _taken(self) -> Iterator[Connection]:
        """Yield a worker that nobody else has; it is ended when the block fails, kept otherwise."""
        with self._lock:
            if self._owner != os.getpid():  # after a fork the workers are those of the parent
                self._owner, self._idle = os.getpid(), []
            worker = self._idle.pop() if self._idle else None
        if worker is not None and worker.process.poll() is not None:
            worker.end()
            worker = None
        worker = worker or Connection()
        whole = False
        try:
            yield worker
            whole = True
        finally:
            if whole:
                with self._lock:
                    self._idle.append(worker)
            else:
                worker.end()

    def _answer(self, worker: Connection, source: str) -> dict[str, Any]:
        """Wait for the last answer to a request."""
        begun = noticed = False
        moved = time.monotonic()
        while True:
            try:
                answer = worker.receive(min(LOOK_SECONDS, self._notice_s))
            except TimeoutError:
                worker.check_running()
                silent, limit = time.monotonic() - moved, self._silent_s if begun else START_SECONDS
                if silent > limit:
                    raise _too_slow(source, limit) if begun else _no_worker() from None
                if silent > self._notice_s and not noticed:
                    noticed = True
                    what = f"it is given up after {limit:.0f} s" if begun else "its process is still starting"
                    log.warning("%s: reading it takes long; %s", source, what)
                continue
            if not answer.keys() & {"begun", "beat", "log"}:
                return answer
            moved = time.monotonic()
            if "begun" in answer:
                begun, noticed = True, False
            if "log" in answer:
                name, level, text = answer["log"]
                logging.getLogger(name).log(level, "%s", text)


def _check_memory(answer: dict[str, Any], request: dict[str, Any]) -> None:
    """Refuse the file of a call that reached its limit; the worker of such a call is not used again."""
    if answer.get("error", [""])[0] == MEMORY:
        raise InputError(
            f"{request['source']}: reading it takes more than {request['memory_bytes'] / 1e6:.0f} MB of memory; it is "
            "damaged, or unpacks to far more than its size: export it again, smaller"
        )


def _result(answer: dict[str, Any], file: BinaryIO) -> Any:
    """Turn a worker's answer into the result of the call, or raise its error."""
    if "array" in answer:
        return _mapped(file, *answer["array"])
    if "error" not in answer:
        return answer["value"]
    kind, text = answer["error"]
    raise found(kind)(text)


def _too_slow(source: str, seconds: float) -> InputError:
    return InputError(
        f"{source}: reading it came no further for {seconds:.0f} s and was given up; copy it to a local disk, or "
        "convert it with another program and give the new file"
    )


def _no_worker() -> CapacityError:
    return CapacityError(f"the process that reads files did not start within {START_SECONDS:.0f} s; end other programs")


def _mapped(file: BinaryIO, dtype: str, shape: list[int]) -> Any:
    """Map an array that a worker wrote, without a copy."""
    import numpy as np

    if 0 in shape:
        return np.empty(shape, dtype)
    return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype).reshape(shape)


def _shared_file() -> BinaryIO:
    """Open a file without a name, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("liveavatar"), "w+b")
    return tempfile.TemporaryFile()


def _environment() -> dict[str, str]:
    """Make the environment of a worker: few threads, and no modules from the working directory."""
    searched = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(entry)]
    own = [str(paths.REPO_ROOT)] if paths.is_checkout() and str(paths.REPO_ROOT) not in searched else []
    threads = {name: str(_few_threads(os.environ.get(name))) for name in THREAD_SETTINGS}
    return {**os.environ, **threads, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join([*own, *searched])}


def _few_threads(setting: str | None) -> int:
    """Limit a number of threads; OpenMP also takes a list, one number for each level, of which the first counts."""
    first = (setting or "").partition(",")[0].strip()
    return min(THREADS, int(first)) if first.isdecimal() and int(first) else THREADS


WORKERS = Workers()  # they belong to the process, as its working directory does


def isolated(
    function: Callable[..., Any],
    source: Path | str,
    *arguments: Any,
    memory_bytes: int = MEMORY_BYTES,
    beats: bool = False,
) -> Any:
    """Call `function(source, *arguments)` in a worker of this process (`Workers.call`)."""
    return WORKERS.call(function, source, *arguments, memory_bytes=memory_bytes, beats=beats)
