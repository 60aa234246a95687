"""Worker process of `liveavatar.isolation.caller`: takes one call after another from a socket, until it is closed.

A request is one byte that carries a file descriptor, and a line of JSON. Answers are lines of JSON: "begun", "beat"
(the call makes progress), "log" (a record), and last "value", "array" or "error". The array itself goes into the
descriptor as raw bytes; nothing is pickled. An error that is not ours ends the worker, with its traceback on standard
error.
"""

import ctypes
import importlib
import json
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import reduce
from pathlib import Path
from typing import Any, BinaryIO

from liveavatar.errors import LiveAvatarError
from liveavatar.files import plain

IDLE_SECONDS = 60.0  # without a request, after which a worker ends
BEAT_SECONDS = 0.5  # at least, between two beats
PR_SET_PDEATHSIG = 1  # from linux/prctl.h
MEMORY = "memory"  # kind of error: the limit was reached
PACKAGES = ("flows", "tasks", "liveavatar")  # whose log records are passed on


def die_with_parent() -> None:
    """Make the kernel kill this process when the thread that started it ends, for any reason (Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class CallServer(logging.Handler):
    """Answers the requests of one connection, and passes log records on to it."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(logging.INFO)
        self._connection = connection
        self._beaten = 0.0

    def serve(self) -> None:
        """Answer requests until the other side closes the connection or is silent for long."""
        self._connection.settimeout(IDLE_SECONDS)
        with suppress(TimeoutError, ConnectionError), self._connection.makefile("rb", buffering=0) as lines:
            while (received := socket.recv_fds(self._connection, 1, 1))[0]:
                request = json.loads(lines.readline())
                with open(received[1][0], "wb") as file:
                    self._send(self._answer(request, file))

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record on."""
        self._send({"log": [record.name, record.levelno, record.getMessage()]})

    def _answer(self, request: dict[str, Any], file: BinaryIO) -> dict[str, Any]:
        function = found(request["function"])
        keywords = {"on_progress": self._beat} if request["beats"] else {}
        os.chdir(request["folder"])
        self._send({"begun": True})
        try:
            with memory_limit(request["memory_bytes"]):
                value = function(Path(request["source"]), *request["arguments"], **keywords)
                if not hasattr(value, "dtype"):
                    return {"value": plain(value)}
                _write(value, file)
                return {"array": [value.dtype.str, list(value.shape)]}
        except LiveAvatarError as e:
            return {"error": [f"{type(e).__module__}:{type(e).__qualname__}", str(e)]}
        except MemoryError:
            return {"error": [MEMORY, ""]}

    def _beat(self) -> None:
        if time.monotonic() - self._beaten > BEAT_SECONDS:
            self._beaten = time.monotonic()
            self._send({"beat": True})

    def _send(self, answer: dict[str, Any]) -> None:
        self._connection.sendall(json.dumps(answer, default=str).encode() + b"\n")


def _write(array: Any, file: BinaryIO) -> None:
    """Write an array in C order, without a copy where it lies so."""
    import numpy as np

    file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    file.flush()


@contextmanager
def memory_limit(num_bytes: int) -> Iterator[None]:
    """Limit the memory that this process may allocate inside, in bytes beyond what it holds already (Linux)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    status = Path("/proc/self/status")
    held = int(status.read_text().partition("VmData:")[2].split()[0]) * 1024 if status.exists() else None
    if held is not None:
        limit = held + num_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def name_of(function: Callable[..., Any]) -> str:
    """Return the name by which a worker finds a function of a module."""
    return f"{function.__module__}:{function.__qualname__}"


def found(name: str) -> Any:
    """Import a function or class by the name that `name_of` gives."""
    module, _, path = name.partition(":")
    return reduce(getattr, path.split("."), importlib.import_module(module))


def main() -> None:
    """Serve the socket whose descriptor is the first argument."""
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    worker = CallServer(socket.socket(fileno=int(sys.argv[1])))
    for package in PACKAGES:
        logger = logging.getLogger(package)
        logger.setLevel(logging.INFO)
        logger.addHandler(worker)
    worker.serve()


if __name__ == "__main__":
    main()
