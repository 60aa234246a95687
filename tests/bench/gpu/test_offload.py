"""One small card, on a few thousand weights: every row, the same latents, and what a run says that has no room."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from liveavatar.bench.gpu import offload
from liveavatar.bench.gpu.build import DRY, fast_engine
from liveavatar.bench.gpu.offload import HOST_MODES, TRIES, OffloadBench, where_of

CPU = torch.device("cpu")
SIZE = (64, 64)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> OffloadBench:
    monkeypatch.setattr(offload, "release", lambda: None)
    return OffloadBench(DRY, SIZE, CPU, torch.float32)


def test_the_link_is_measured_each_way(bench: OffloadBench) -> None:
    row = bench.link()
    assert all(row[name] > 0 for name in ("to_gpu_gb_s", "from_gpu_gb_s", "each_of_both_gb_s", "pin_s_per_gib"))
    assert not row["pinned"], "a CPU pins nothing"


def test_rings_are_where_they_are_asked_to_be_and_make_the_same_latents(bench: OffloadBench) -> None:
    rows = [bench.measure(HOST_MODES[0], card) for card in (24.0, None)]
    assert [(row["rings"], row["fits"], row["same_latents"]) for row in rows] == [
        ("host", True, True),
        ("GPU", True, True),
    ]
    assert rows[0]["latents"] == rows[1]["latents"]
    assert rows[0]["cap_gib"] == pytest.approx(22.15)
    assert all(row["fps"] > 0 and row["predicted_gib"] > 0 and row["process_gib"] > 0 for row in rows)


def test_other_latents_are_told(bench: OffloadBench, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = iter(["a", "b"])
    monkeypatch.setattr(offload, "measure_pace", lambda *_: {"fps": 1.0, "latents": next(digests)})
    rows = [bench.measure(HOST_MODES[0], card) for card in (24.0, None)]
    assert [row["same_latents"] for row in rows] == [True, False]


def test_no_room_is_a_result(bench: OffloadBench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(offload, "measure_pace", full)
    row = bench.measure(HOST_MODES[0], 16.0)
    assert (row["fits"], row["error"]) == (False, "CUDA out of memory.")
    assert "fps" not in row


def test_an_engine_keeps_its_weights_for_all_rows(bench: OffloadBench, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make(*arguments: Any) -> Any:
        made.append(fast_engine(*arguments))
        return made[-1]

    monkeypatch.setattr(offload, "fast_engine", make)
    monkeypatch.setattr(offload, "measure_pace", lambda *_: {"fps": 1.0, "latents": "a"})
    named = bench.measurements()
    assert len(named) == len(TRIES) + 1
    for _, work in named[1:]:
        work()
    assert len(made) == 1
    assert made[0].mode == HOST_MODES[1], "the last one, as it is measured"
    assert all(mode.fp8 and mode.offload for mode in HOST_MODES)
    assert replace(HOST_MODES[0], rings_on_host=False) not in HOST_MODES


def test_a_row_is_named_by_its_card() -> None:
    assert where_of(16.0) == "in the memory of 16 GB"
    assert where_of(None) == "with rings on the GPU"
