"""The pool of readers notices what the fuzz run looks for, and goes on."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz.pool import Limits, read_all


def misbehave(kind: str, path: Path) -> str:
    """Behave as the kind says."""
    if kind == "crash":
        os.abort()
    if kind == "hang":
        while True:
            pass
    if kind == "wait":
        time.sleep(60)
    if kind == "memory":
        np.ones(200_000_000, np.uint8)
    if kind == "error":
        raise KeyError("moov")
    return "read"


def test_faults_are_seen_and_the_next_file_is_read() -> None:
    kinds = ["read", "crash", "error", "hang", "read", "wait", "memory", "read"]
    limits = Limits(seconds=2.0, idle_seconds=2.0, num_bytes=150_000_000)
    results = list(read_all(kinds, lambda kind: (kind, Path("x")), misbehave, limits=limits))
    assert [kind for kind, _ in results] == kinds
    statuses = [outcome.status for _, outcome in results]
    assert statuses == ["read", "crash", "error", "hang", "read", "hang", "memory", "read"]
    assert [outcome.is_fault for _, outcome in results] == [kind != "read" for kind in kinds]
    details = dict(zip(kinds, (outcome.detail for _, outcome in results), strict=True))
    assert details["crash"] == "exit code -6"
    assert details["error"].startswith("KeyError: 'moov' (test_pool.py:")


@pytest.mark.parametrize("workers", [1, 2])
def test_results_keep_the_order_of_the_cases(workers: int) -> None:
    cases = [("read", number) for number in range(20)]
    results = read_all(cases, lambda case: (case[0], Path("x")), misbehave, workers)
    assert [case for case, _ in results] == cases
