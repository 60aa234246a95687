"""Events reach the listeners of their own context, and nobody else."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context

from tasks.events import Event, emit, is_heard, listening


def _note(text: str) -> Event:
    return Event(kind="note", stage="render", text=text)


def test_a_listener_hears_what_is_emitted_inside() -> None:
    outer: list[Event] = []
    inner: list[Event] = []
    emit(_note("before"))
    assert not is_heard()
    with listening(outer.append):
        assert is_heard()
        emit(_note("first"))
        with suppress(KeyError), listening(inner.append):
            emit(_note("second"))
            raise KeyError
        emit(_note("third"))
    emit(_note("after"))
    assert [event.text for event in outer] == ["first", "second", "third"]
    assert [event.text for event in inner] == ["second"]


def test_a_thread_hears_only_with_a_copy_of_the_context() -> None:
    heard: list[Event] = []
    with ThreadPoolExecutor(1) as thread, listening(heard.append):
        thread.submit(emit, _note("another run")).result()
        thread.submit(copy_context().run, emit, _note("a job of this run")).result()
    assert [event.text for event in heard] == ["a job of this run"]
