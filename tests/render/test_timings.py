"""The timing figures of a report, from rows whose figures can be worked out by hand."""

from typing import Any

import pytest

from liveavatar.engine.placement import RankWork, split
from liveavatar.render.timings import BlockRow, memory_summary, rank_summary, timing_summary

TICK = 1e-6  # seconds


def row(block: int, ready_s: float, block_ms: float = 100.0, **more: Any) -> BlockRow:
    return BlockRow(block=block, step_ms=[10.0, 20.0], decode_ms=5.0, block_ms=block_ms, ready_s=ready_s, **more)


def summary(ready_s: list[float]) -> dict[str, float | int | None]:
    return timing_summary([row(index, at) for index, at in enumerate(ready_s)], 12 * len(ready_s), ready_s[-1])


@pytest.mark.parametrize(
    ("ready_s", "misses"),
    [
        pytest.param([2.0], 0, id="the first block cannot miss its own deadline"),
        pytest.param([2.0, 2.48 - TICK, 2.96 - TICK], 0, id="just in time"),
        pytest.param([2.0, 2.48 + TICK, 2.96 + TICK], 2, id="just too late"),
        pytest.param([2.0, 2.48 - TICK, 2.96 + TICK, 3.0], 1, id="a late block does not move the deadlines after it"),
        pytest.param([2.0, 2.48 + TICK - 0.04, 2.96 - 0.04], 0, id="a frame ahead of the deadline"),
        pytest.param([2.0, 2.48 + 0.04, 2.96 + 0.04], 2, id="a frame behind it"),
        pytest.param([0.5, 0.6, 0.7, 0.8], 0, id="faster than real time"),
        pytest.param([1.0, 2.0, 3.0, 4.0], 3, id="slower than real time"),
    ],
)
def test_a_deadline_is_480_ms_a_block_after_the_first_frames(ready_s: list[float], misses: int) -> None:
    assert summary(ready_s)["deadline_misses"] == misses


def test_first_frames_are_those_of_the_first_block() -> None:
    assert summary([1.23456, 1.5, 1.9])["ttff_s"] == 1.2346


def test_percentiles_interpolate_between_blocks() -> None:
    rows = [row(index, index * 0.1, block_ms=float(ms)) for index, ms in enumerate([10, 20, 30, 40, 200])]
    figures = timing_summary(rows, 60, 1.5)
    assert figures["block_ms_p50"] == 30
    assert figures["block_ms_p99"] == pytest.approx(200 - 0.04 * 160)
    even = timing_summary(rows[:4], 48, 1.0)
    assert even["block_ms_p50"] == 25
    assert even["block_ms_p99"] == pytest.approx(40 - 0.03 * 10)


def test_speed_counts_frames_of_the_film() -> None:
    figures = timing_summary([row(0, 0.5), row(1, 0.8)], num_frames=20, render_s=0.8)
    assert figures["fps"] == 25
    assert figures["ms_per_frame"] == 40


def test_delays_of_piped_sound_are_reported_only_where_sound_arrived() -> None:
    rows = [row(index, 0.5 * index, delay_ms=ms) for index, ms in enumerate([30.0, 10.0, 20.0, 60.0])]
    figures = timing_summary(rows, 48, 2.0)
    assert figures["live_delay_ms_p50"] == 25
    assert figures["live_delay_ms_max"] == 60
    assert not [name for name in summary([1.0, 2.0]) if name.startswith("live_delay")]


def test_each_rank_reports_its_own_steps_and_waits() -> None:
    rows = [row(0, 1.0, wait_ms=[0.0, 8.0]), row(1, 2.0, wait_ms=[2.0, 4.0])]
    first, second = rank_summary(rows, split(2, 2))
    assert first == {"rank": 0, "role": "step 1", "step_ms": [10.0], "decode_ms": None, "wait_ms": 1.0}
    assert second == {"rank": 1, "role": "step 2 + decoder", "step_ms": [20.0], "decode_ms": 5.0, "wait_ms": 6.0}
    (alone,) = rank_summary([row(0, 1.0)], (RankWork(rank=0, steps=(0, 1), decodes=True),))
    assert alone["wait_ms"] == 0.0


def test_memory_is_summed_up_by_rank() -> None:
    first = [[1.0, 4.0, 16.0, 0.0, 0.0, 0.0], [2.0, 4.0, 16.0, 20.0, 24.0, 4.0]]
    later = [[1.5, 15.9, 16.0, 0.0, 0.0, 0.0], [1.9, 15.9, 16.0, 23.9, 24.0, 0.1]]
    rows = [row(0, 1.0, memory=first), row(1, 1.5, memory=later), row(2, 2.0, memory=first)]
    host = {"host_gb": 15.9, "host_total_gb": 16.0}
    summary = memory_summary(rows)
    assert summary["ranks"] == [
        {"rank": 0, "process_gb": 1.5, **host},
        {"rank": 1, "process_gb": 2.0, **host, "gpu_gb": 23.9, "gpu_total_gb": 24.0},
    ]
    assert [text.partition(" is ")[0] for text in sorted(summary["warnings"])] == [
        "the GPU of rank 1",
        "the memory of the machine",
    ]
    assert rows[1].readings[1].gpu_used == 23.9
    assert memory_summary([row(0, 1.0)]) == {"ranks": [], "warnings": []}


def test_memory_is_summed_up_where_a_job_went_on_with_fewer_ranks() -> None:
    two, one = (
        [[1.0, 4.0, 16.0, 9.0, 24.0, 15.0], [2.0, 4.0, 16.0, 9.5, 24.0, 14.5]],
        [[3.0, 4.0, 16.0, 18.0, 24.0, 6.0]],
    )
    ranks = memory_summary([row(0, 1.0, memory=two), row(1, 2.0, memory=one)])["ranks"]
    assert [(rank["process_gb"], rank["gpu_gb"]) for rank in ranks] == [(3.0, 18.0), (2.0, 9.5)]
