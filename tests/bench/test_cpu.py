"""The CPU benchmark: keys of `liveavatar bench cpu --json`, and numbers that fit together."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import pytest

from liveavatar.bench import cpu
from liveavatar.bench.cpu import CpuBench, bench_cpu, to_json
from liveavatar.errors import InputError

BLOCKS = 2


@pytest.fixture(scope="module")
def measured(tiny_model: Path) -> CpuBench:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "WARM_BLOCKS", 1)
        patch.setattr(cpu, "ProcessPoolExecutor", InThisProcess)
        return bench_cpu(tiny_model, num_blocks=BLOCKS, sample_steps=1, threads=1)


class InThisProcess(Executor):
    """A substitute for a pool of processes that calls functions at once."""

    def __init__(self, workers: int, mp_context: BaseContext) -> None:
        assert (workers, mp_context.get_start_method()) == (1, "spawn")

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Call it."""
        called: Future[Any] = Future()
        called.set_result(function(*arguments, **named))
        return called


def test_the_json_has_the_keys_of_the_contract(measured: CpuBench) -> None:
    result = to_json(measured)
    assert {"fps", "ttff_s", "eager_fps", "peak_rss_mb", "realtime", "threads", "blocks"} <= result.keys()
    assert (result["threads"], result["blocks"]) == (1, BLOCKS)
    assert result["fps"] == pytest.approx(measured.fps, rel=0.01), "rounded, not changed"


def test_the_numbers_of_a_run_fit_together(measured: CpuBench) -> None:
    tuned, eager = measured.tuned, measured.eager
    assert (measured.fps, measured.ttff_s, measured.peak_rss_mb) == (tuned.fps, tuned.ttff_s, tuned.peak_rss_mb)
    assert measured.eager_fps == eager.fps
    assert measured.realtime == pytest.approx(tuned.fps / 25)
    for speed in (tuned, eager):
        assert speed.ttff_s > 0
        assert 0 < speed.block_ms_p50 <= speed.block_ms_p99
        assert speed.fps == pytest.approx(12 / (speed.block_ms_p50 / 1000)), "one timed block: its pace is the median"
        assert speed.deadline_misses == int(speed.block_ms_p50 > 480)
        assert 50 < speed.peak_rss_mb < 20_000


def test_blocks_that_only_warm_up_are_refused(tiny_model: Path) -> None:
    with pytest.raises(InputError, match="give more"):
        bench_cpu(tiny_model, num_blocks=cpu.WARM_BLOCKS)
