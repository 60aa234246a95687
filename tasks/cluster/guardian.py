"""Guardian process of a local Ray: kills the processes of a driver that has ended, for any reason.

It waits for the end of its standard input, whose other end the driver holds. The driver marks every process of its
local Ray in the environment; when it is gone, killed or done, processes with the mark are killed. Needs nothing but
Python.
"""

import os
import signal
import sys
import time
from pathlib import Path

MARK = "LIVEAVATAR_RAY_OWNER"
LOOKS, PAUSE_SECONDS = 20, 0.1  # a process may be starting another one while it is killed


def end_marked(token: str) -> int:
    """Kill every process with the mark and return their number."""
    mark, own, killed = f"{MARK}={token}".encode(), os.getpid(), 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int(entry.name) != own and mark in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
                killed += 1
        except OSError:  # gone meanwhile, or of another user
            continue
    return killed


def main() -> None:
    """Wait for the driver's end, then kill the marked processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdin.buffer.read()
    for _ in range(LOOKS):
        end_marked(sys.argv[1])
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
