"""Functions that a worker calls in the tests: each does to it what a bad file does to a decoder."""

import ctypes
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from liveavatar.errors import CheckpointError


def crash(path: Path) -> None:
    """Read address 0."""
    ctypes.string_at(0)


def stop(path: Path) -> None:
    """Stop the process, as a terminal's Ctrl-Z does."""
    os.kill(os.getpid(), signal.SIGSTOP)


def die_once(path: Path, number: int) -> int:
    """Kill the process at the first call with a path, return the number at the second."""
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), number)
    return number


def sleep(path: Path, seconds: float) -> None:
    """Hang without using the processor."""
    time.sleep(seconds)


def work(path: Path, seconds: float, *, on_progress: Callable[[], None]) -> str:
    """Work so long, with progress."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        on_progress()
        time.sleep(0.05)
    return "done"


def swell(path: Path, num_bytes: int) -> int:
    """Take memory and touch all of it."""
    return len(np.full(num_bytes, 7, np.uint8))


def environment(path: Path, *names: str) -> list[str | None]:
    """Return environment variables of the worker."""
    return [os.environ.get(name) for name in names]


def fail(path: Path) -> None:
    """Make a mistake."""
    raise AttributeError(f"no such thing in {path.name}")


def refuse(path: Path) -> None:
    """Refuse the path, after a remark."""
    logging.getLogger("liveavatar.media").warning("%s looks odd", path)
    raise CheckpointError(f"{path}: is no use; take another")


def array(path: Path, shape: list[int], dtype: str) -> np.ndarray:
    """Make an array that is not contiguous."""
    whole: np.ndarray = np.arange(np.prod(shape, dtype=int)).reshape(shape[::-1]).astype(dtype).T
    return whole


def facts(path: Path) -> dict[str, Any]:
    """Tell what a call finds: its path, working directory, process, and the value that JSON does not know."""
    return {"path": path, "folder": Path.cwd(), "process": os.getpid(), "value": np.float32(0.5)}
