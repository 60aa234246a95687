"""Ends what a driver leaves behind, however the driver ended: run as a process, it waits for the end of its input.

The driver holds the other end of that input and marks every process of its local Ray in the environment. When the
driver is gone, killed or done, whoever carries the mark is killed. Needs nothing but Python.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

MARK = "LIVEAVATAR_RAY_OWNER"
PR_SET_PDEATHSIG = 1  # from linux/prctl.h
LOOKS, PAUSE_SECONDS = 20, 0.1  # a process may be starting another one while it is killed


def die_with_parent() -> None:
    """Have the kernel end this process when the one that started it dies, however it dies (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_marked(token: str) -> int:
    """Kill every process with the mark; how many there were."""
    mark, own, found = f"{MARK}={token}".encode(), os.getpid(), 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int(entry.name) != own and mark in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
                found += 1
        except OSError:  # gone meanwhile, or of another user
            continue
    return found


def main() -> None:
    """Wait for the driver's end, then kill."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdin.buffer.read()
    for _ in range(LOOKS):
        end_marked(sys.argv[1])
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
