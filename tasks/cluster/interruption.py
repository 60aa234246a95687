"""Ctrl-C for jobs in threads: it reaches only the main thread, so the others look at an object while they wait."""

import threading


class Interruption:
    """The Ctrl-C that the jobs of several threads share."""

    def __init__(self) -> None:
        self._pressed = threading.Event()

    def interrupt(self) -> None:
        """End the jobs as Ctrl-C ends that of the main thread."""
        self._pressed.set()

    def check(self) -> None:
        """Raise KeyboardInterrupt once `interrupt` was called."""
        if self._pressed.is_set():
            raise KeyboardInterrupt
