"""A recording for which there is no room must leave nothing behind before the work is done without it."""

import gc
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch

from liveavatar.fast.gpu_graph import RecordedGraph, record


class _Stream:
    def synchronize(self) -> None:
        pass


class _Graph:
    """Stands for what a GPU would record, and for the memory that it holds."""

    def __init__(self) -> None:
        _ALIVE.add(self)


_ALIVE: "weakref.WeakSet[_Graph]" = weakref.WeakSet()


def _replaying(order: list[str]) -> type[_Graph]:
    class _Replayed(_Graph):
        def replay(self) -> None:
            order.append("replay")

    return _Replayed


@contextmanager
def _no_room(graph: _Graph, **_: object) -> Iterator[None]:
    yield
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 594.00 MiB.\nmore lines")


def test_a_failed_recording_is_let_go_before_the_work_is_done_without_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "current_stream", _Stream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", _Graph)
    monkeypatch.setattr(torch.cuda, "graph", _no_room)
    held: list[int] = []  # graphs alive at every call of the work, and -1 where memory was given back
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: held.append(-1))
    recorded = RecordedGraph(lambda: held.append(len(_ALIVE)), enabled=True)
    for _ in range(3):
        recorded()
    assert held == [0, 1, -1, 0, 0]
    assert not recorded.enabled
    assert "CUDA graphs are off" in caplog.text
    assert "more lines" not in caplog.text


def test_a_graph_that_is_forgotten_is_gone_before_its_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(torch.cuda, "current_stream", _Stream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **_: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: order.append("waited"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: order.append(f"{len(_ALIVE)} graphs"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", _replaying(order))
    recorded = RecordedGraph(lambda: order.append("work"), enabled=True)
    for _ in range(3):
        recorded()
    assert order == ["work", "work", "replay", "replay"]
    order.clear()
    assert recorded.graph is not None
    recorded.forget()
    recorded()
    assert order == ["waited", "0 graphs", "work"]
    assert recorded.graph is None


def test_no_garbage_is_collected_while_any_thread_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph of an earlier job that is let go within a recording ends it."""
    monkeypatch.setattr(torch.cuda, "current_stream", _Stream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", _Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **_: nullcontext())
    begun, first_done = threading.Event(), threading.Event()

    def long() -> bool:
        begun.set()
        assert first_done.wait(10)
        return gc.isenabled()

    enabled: list[bool] = []
    other = threading.Thread(target=lambda: enabled.append((record(long) or (None, True))[1]))
    other.start()
    assert begun.wait(10)
    first = record(gc.isenabled)
    first_done.set()
    other.join()
    assert first is not None
    assert [first[1], *enabled] == [False, False]
    assert gc.isenabled()


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Streams that are made current, and None when the one before is again."""
    seen: list[object] = []

    @contextmanager
    def current(stream: object) -> Iterator[None]:
        seen.append(stream)
        try:
            yield
        finally:
            seen.append(None)

    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "current")
    monkeypatch.setattr(torch.cuda, "stream", current)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", _Graph)
    return seen


def test_a_recording_is_its_graph_and_the_result(entered: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    @contextmanager
    def graph(_: _Graph, **options: object) -> Iterator[None]:
        asked.update(options)
        yield

    monkeypatch.setattr(torch.cuda, "graph", graph)
    recorded = record(lambda: "made", "pool", "stream")
    assert recorded is not None
    assert (type(recorded[0]), recorded[1]) == (_Graph, "made")
    assert asked == {"pool": "pool", "stream": "stream", "capture_error_mode": "thread_local"}
    assert entered == ["current", None]


def test_a_failed_recording_is_cleaned_up_on_the_stream_before_while_its_graph_lives(
    entered: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "graph", _no_room)
    found: list[tuple[int, list[object]]] = []
    assert record(lambda: None, on_failure=lambda: found.append((len(_ALIVE), list(entered)))) is None
    assert found == [(1, ["current", None])]
    assert len(_ALIVE) == 0
