"""Faults of native decoders, planted into worker processes: the name of a file decides what opening it does."""

import ctypes
import os
import sys
import time
from typing import Any

WORKER = "liveavatar.isolation.worker"


def strike(event: str, arguments: tuple[Any, ...]) -> None:
    """Crash, abort, hang, or take all memory when a file of that name is opened."""
    if event != "open" or not isinstance(arguments[0], str):
        return
    name = arguments[0].rpartition("/")[2]
    if name.startswith("crashing-"):
        ctypes.string_at(0)
    elif name.startswith("aborting-"):
        os.abort()
    elif name.startswith("hanging-"):
        time.sleep(600)
    elif name.startswith("swelling-"):
        bytearray(10**11)


if WORKER in sys.orig_argv:
    sys.addaudithook(strike)
