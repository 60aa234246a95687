"""Ctrl-C reaches only the main thread; what it asks of the others is kept here, for whatever they wait on."""

import threading

_interrupted = threading.Event()


def interrupt() -> None:
    """End the jobs of all threads as Ctrl-C ends that of the first."""
    _interrupted.set()


def check() -> None:
    """Raise what Ctrl-C raises once `interrupt` was called."""
    if _interrupted.is_set():
        raise KeyboardInterrupt


def forget() -> None:
    """Let jobs run again."""
    _interrupted.clear()
