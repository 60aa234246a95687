"""Predicted memory by precision, and what a run says that has no room."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from liveavatar.bench.gpu import memory
from liveavatar.bench.gpu.build import BF16, DRY, FP8, FP8_ALL
from liveavatar.bench.gpu.memory import measure_capped, measure_memory, predicted, predicted_ranks
from liveavatar.config import LIVE_AVATAR_14B
from liveavatar.engine.placement import split
from liveavatar.hardware import gpu_of

CPU = torch.device("cpu")


def test_prediction_falls_with_precision() -> None:
    gpu = gpu_of("H200")
    totals = [predicted(LIVE_AVATAR_14B, mode, (704, 384), gpu)["total"] for mode in (BF16, FP8, FP8_ALL)]
    assert totals == sorted(totals, reverse=True)
    assert totals[2] < 48e9 / 2**30


def test_ranks_hold_less_than_one_gpu() -> None:
    gpu, size = gpu_of("H200"), (704, 384)
    totals = predicted_ranks(LIVE_AVATAR_14B, FP8, size, split(4, 2), gpu)
    whole = predicted(LIVE_AVATAR_14B, FP8, size, gpu)["total"]
    assert len(totals) == 2
    assert all(whole / 2 < total < whole for total in totals)


@pytest.fixture(autouse=True)
def garbage_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting it takes a second with all modules loaded."""
    monkeypatch.setattr(memory, "release", lambda: None)


def fake_engine(marks: int | None) -> Any:
    """An engine whose streams make so many blocks, or have no room."""

    def open_(job: object) -> Any:
        if marks is None:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        return SimpleNamespace(blocks=lambda: iter(range(marks)))

    return SimpleNamespace(open=open_, forget_sizes=lambda: None, mode=None)


def test_a_measure_stands_beside_its_prediction() -> None:
    engine = fake_engine(6)
    row = measure_memory(DRY, engine, FP8_ALL, (64, 32), CPU)
    assert engine.mode is FP8_ALL
    assert (row["mode"], row["size"], row["allocated_gib"], row["off"]) == (FP8_ALL.name, "64*32", 0.0, None)
    parts = row["predicted_parts"]
    assert 0 < row["predicted_gib"] == parts["allocated"] < parts["total"]


def test_pace_under_a_cap_is_that_of_the_last_blocks_but_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 50.0, 50.5, 51.0, 51.5, 51.6])
    monkeypatch.setattr(memory, "fast_engine", lambda *_: fake_engine(6))
    monkeypatch.setattr(memory, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    row = measure_capped(DRY, FP8, (64, 32), 24.0, CPU, torch.float32)
    assert (row["fits"], row["fps"], row["cap_gb"]) == (True, pytest.approx(24), 24.0)


def test_no_room_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "fast_engine", lambda *_: fake_engine(None))
    row = measure_capped(DRY, FP8, (64, 32), 24.0, CPU, torch.float32)
    assert (row["fits"], row["error"]) == (False, "CUDA out of memory.")
    assert "fps" not in row
