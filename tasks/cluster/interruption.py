"""Ctrl-C for threads: it reaches only the main thread, so others look at a flag while they wait."""

import threading

_interrupted = threading.Event()


def interrupt() -> None:
    """End the jobs of all threads as Ctrl-C ends that of the first."""
    _interrupted.set()


def check() -> None:
    """Raise KeyboardInterrupt once `interrupt` was called."""
    if _interrupted.is_set():
        raise KeyboardInterrupt


def forget() -> None:
    """Clear the flag: jobs may run again."""
    _interrupted.clear()
