"""Engines side by side: every number is with one job at a time, and comes back however the job ends."""

from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWaiting

import pytest

from tasks.cluster.replicas import Replicas


def test_a_job_waits_for_a_free_engine() -> None:
    replicas = Replicas(2)

    def number() -> int:
        with replicas.taken() as taken:
            return taken

    with ThreadPoolExecutor(1) as thread, replicas.taken() as first:
        with replicas.taken() as second:
            assert {first, second} == {0, 1}
            third = thread.submit(number)
            with pytest.raises(StillWaiting):
                third.result(0.2)
        assert third.result(60) == second


def test_a_failed_job_gives_its_engine_back() -> None:
    replicas = Replicas(1)
    with pytest.raises(KeyError), replicas.taken():
        raise KeyError
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(replicas.taken().__enter__).result(60) == 0
