"""Lock of a work folder: one process renders a job at a time."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from liveavatar.errors import CapacityError
from liveavatar.files import open_regular

ALONE_SECONDS = 60.0
ALONE_POLL = 0.1


@contextmanager
def alone(work_dir: Path) -> Iterator[None]:
    """Lock the work folder. When a driver is killed its engine may write on for a second or two: wait for its end.

    Raises:
        CapacityError: another process keeps the folder for over `ALONE_SECONDS`.
    """
    work_dir.parent.mkdir(parents=True, exist_ok=True)
    with open_regular(work_dir.with_suffix(".lock"), "w") as lock:
        deadline = time.monotonic() + ALONE_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as e:
                if time.monotonic() > deadline:
                    raise CapacityError(
                        f"another process has been rendering this job for over {ALONE_SECONDS:.0f} s; "
                        "wait for it, or end it with `liveavatar stop`"
                    ) from e
                time.sleep(ALONE_POLL)
        yield
