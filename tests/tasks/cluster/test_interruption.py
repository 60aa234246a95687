"""Ctrl-C for threads: every look raises once it was pressed, for the jobs that share the object and no other.

A signal ends a block with what its handler before would have raised, whatever a library in it makes of the signal.
"""

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from liveavatar.errors import Interrupted
from tasks.cluster.interruption import Interruption, c_handlers_kept, comes_from_interrupt, signals_interrupt


class Ended(BaseException):
    """Raised by the handler that a signal has outside."""


def test_every_look_raises_once_it_was_pressed() -> None:
    one, other = Interruption(), Interruption()
    one.check()
    one.interrupt()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            one.check()
    other.check()


def raises_another(error: BaseException) -> None:
    raise SystemError("it returned a result with an exception set") from error


def hides_it(error: BaseException) -> None:
    raise RuntimeError("the connection failed") from None


def swallows_it(error: BaseException) -> None:
    pass


def passes_it_on(error: BaseException) -> None:
    raise error


@pytest.fixture(params=[signal.SIGTERM, signal.SIGINT], ids=str)
def number(request: pytest.FixtureRequest) -> Iterator[int]:
    """A signal whose handler raises `Ended`."""

    def end(*_: object) -> None:
        raise Ended

    before = signal.signal(request.param, end)
    yield request.param
    signal.signal(request.param, before)


@pytest.mark.parametrize("library", [raises_another, hides_it, swallows_it, passes_it_on])
def test_a_signal_ends_a_call_whatever_becomes_of_its_exception(
    number: int, library: Callable[[BaseException], None]
) -> None:
    interruption = Interruption()

    def call() -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt as e:
            library(e)

    with pytest.raises(Ended), signals_interrupt(interruption):
        call()
    assert interruption.pressed
    with pytest.raises(Ended):
        signal.raise_signal(number)


def test_an_orderly_end_after_ctrl_c_is_passed_on(number: int) -> None:
    def render() -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt as e:
            raise Interrupted("stopped at block 2") from e

    with pytest.raises(Interrupted if number == signal.SIGINT else Ended), signals_interrupt(Interruption()):
        render()


def test_without_a_signal_nothing_changes(number: int) -> None:
    interruption = Interruption()
    with pytest.raises(RuntimeError, match="by itself"), signals_interrupt(interruption), interruption.unwrapped():
        raise RuntimeError("by itself")
    assert not interruption.pressed


def test_a_signal_that_is_ignored_stays_ignored(number: int) -> None:
    signal.signal(number, signal.SIG_IGN)
    with signals_interrupt(Interruption()):
        signal.raise_signal(number)


def test_an_interrupt_is_found_behind_the_error_that_it_became() -> None:
    wrapped = SystemError("it returned a result with an exception set")
    wrapped.__cause__ = RuntimeError("the connection failed")
    assert not comes_from_interrupt(wrapped)
    wrapped.__cause__.__context__ = KeyboardInterrupt()
    assert comes_from_interrupt(wrapped)


def test_a_handler_is_in_force_behind_c_code_that_replaced_it_in_a_thread(number: int) -> None:
    def connect() -> None:
        with c_handlers_kept():
            ctypes.pythonapi.PyOS_setsig(number, ctypes.c_void_p(int(signal.SIG_IGN)))

    thread = threading.Thread(target=connect)
    thread.start()
    thread.join()
    with pytest.raises(Ended):
        signal.raise_signal(number)
