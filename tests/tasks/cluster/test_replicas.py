"""Engines side by side: each has one job at a time, stays however the job ends, and goes when its GPU is gone."""

import logging
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWaiting
from itertools import count
from threading import Event

import pytest

from tasks.cluster import replicas as module
from tasks.cluster.replicas import GpuTaken, NoGpuLeft, Replicas


def test_a_job_waits_for_the_engine_that_is_free_first() -> None:
    replicas = Replicas(2)
    begun, may_end = [Event(), Event()], [Event(), Event()]

    def hold(number: int) -> int:
        begun[number].set()
        assert may_end[number].wait(60)
        return number

    with ThreadPoolExecutor(3) as threads:
        held = [threads.submit(replicas.run, hold) for _ in range(2)]
        assert all(event.wait(60) for event in begun)
        third = threads.submit(replicas.run, lambda number: number)
        with pytest.raises(StillWaiting):
            third.result(0.2)
        may_end[1].set()
        assert third.result(60) == 1
        may_end[0].set()
        assert {future.result(60) for future in held} == {0, 1}


def test_a_failed_job_gives_its_engine_back() -> None:
    replicas = Replicas(1)

    def fail(_: int) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        replicas.run(fail)
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(replicas.run, lambda number: number).result(60) == 0


def test_engines_without_a_gpu_are_given_up_but_for_the_last(caplog: pytest.LogCaptureFixture) -> None:
    replicas = Replicas(3)
    tried: list[int] = []

    def needs_the_last_gpu(number: int) -> int:
        tried.append(number)
        if number < 2:
            raise NoGpuLeft(f"GPU {number} cannot be used", "wait")
        return number

    def fail(number: int) -> None:
        raise NoGpuLeft(f"GPU {number} cannot be used", "wait")

    with caplog.at_level(logging.WARNING):
        assert replicas.run(needs_the_last_gpu) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "GPU 0 cannot be used; the batch goes on with 2 of its engines",
        "GPU 1 cannot be used; the batch goes on with 1 of its engines",
    ]
    assert replicas.run(needs_the_last_gpu) == 2
    assert tried == [0, 1, 2, 2]
    for _ in range(2):
        with pytest.raises(NoGpuLeft, match="GPU 2 cannot be used; wait"):
            replicas.run(fail)


TAKEN = GpuTaken("another job has the GPU of an engine", "wait")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the module has slept."""
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    monkeypatch.setattr(module.time, "monotonic", lambda: sum(slept))
    return slept


def test_an_engine_whose_gpu_is_taken_is_tried_again(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    tries = count()

    def job(number: int) -> int:
        if next(tries) < 5:
            raise TAKEN
        return number

    with caplog.at_level(logging.WARNING):
        assert Replicas(1).run(job) == 0
    assert clock == [module.PAUSE_SECONDS] * 5
    assert [record.getMessage() for record in caplog.records] == [
        "another job has the GPU of an engine; the job waits for it or for another engine"
    ]


def test_a_job_takes_the_free_engine_in_place_of_one_whose_gpu_is_taken(clock: list[float]) -> None:
    replicas = Replicas(2)
    tried: list[int] = []

    def job(number: int) -> int:
        tried.append(number)
        if number == 0 and len(tried) < 3:
            raise TAKEN
        return number

    assert replicas.run(job) == 1
    assert tried == [0, 1]
    assert {replicas.run(job), replicas.run(job)} == {0, 1}, "it was not given up"


def test_a_gpu_that_stays_taken_is_given_up_and_the_last_one_named(clock: list[float]) -> None:
    def job(_: int) -> None:
        raise TAKEN

    with pytest.raises(GpuTaken, match="wait"):
        Replicas(2).run(job)
    assert module.TAKEN_SECONDS <= sum(clock) <= module.TAKEN_SECONDS + module.PAUSE_SECONDS


def test_a_batch_that_waits_for_a_gpu_can_be_interrupted(clock: list[float]) -> None:
    replicas = Replicas(1)

    def job(_: int) -> None:
        replicas.interruption.interrupt()
        raise TAKEN

    with pytest.raises(KeyboardInterrupt):
        replicas.run(job)
