"""Ctrl-C and SIGTERM during calls of Ray: whatever becomes of their exception there, the wait ends as interrupted.

Ray's C code passes on KeyboardInterrupt alone. Another exception of a signal's handler, such as the one of Prefect's,
comes out of it as SystemError, or not at all. Jobs in threads, which no signal reaches, look at an `Interruption`
while they wait.
"""

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from liveavatar.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """The end of one or several jobs before they are done."""

    def __init__(self) -> None:
        self._pressed = False

    def interrupt(self) -> None:
        """End the jobs as Ctrl-C ends that of the main thread."""
        self._pressed = True  # no lock: a signal's handler calls it

    @property
    def pressed(self) -> bool:
        """True once `interrupt` was called."""
        return self._pressed

    def check(self) -> None:
        """Raise KeyboardInterrupt once `interrupt` was called."""
        if self.pressed:
            raise KeyboardInterrupt

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: raise KeyboardInterrupt, and at every later look as well."""
        self.interrupt()
        raise KeyboardInterrupt

    @contextmanager
    def unwrapped(self, *others: type[Exception]) -> Iterator[None]:
        """Raise KeyboardInterrupt in place of an error that comes out of the block after `interrupt`.

        Args:
            others: classes of errors that pass as they are.
        """
        try:
            yield
        except Exception as e:
            if self.pressed and not isinstance(e, others):
                raise KeyboardInterrupt from e
            raise


def comes_from_interrupt(error: BaseException) -> bool:
    """Tell if an exception is a KeyboardInterrupt, or was raised because of one or while one was handled."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, KeyboardInterrupt):
        link = link.__cause__ or link.__context__
    return link is not None


@contextmanager
def signals_interrupt(interruption: Interruption) -> Iterator[None]:
    """Interrupt the block at Ctrl-C and SIGTERM; behind it they do what they would have done without.

    After Ctrl-C, `Interrupted` leaves the block as it is. A signal that is ignored stays ignored. In a thread, which no
    signal reaches, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        interruption.on_signal(number, frame)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    try:
        for number in taken:
            signal.signal(number, note)
        yield
    except Interrupted:
        came = [number for number in came if number != signal.SIGINT]
        raise
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)
        for first in came[:1]:
            signal.raise_signal(first)


@contextmanager
def c_handlers_kept() -> Iterator[None]:
    """Keep Python's handlers of `SIGNALS` in force behind the block, whatever C code has put in their place.

    Ray does when it leaves a cluster. Only the main thread may set a handler of Python's, but any thread the one in C
    below it, which calls them.
    """
    get, put = ctypes.pythonapi.PyOS_getsig, ctypes.pythonapi.PyOS_setsig
    get.argtypes, put.argtypes = [ctypes.c_int], [ctypes.c_int, ctypes.c_void_p]
    get.restype = put.restype = ctypes.c_void_p
    before = {number: get(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            put(number, handler)
