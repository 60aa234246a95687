"""The CPU benchmark: keys of `liveavatar bench cpu --json`, and numbers that fit together."""

from pathlib import Path

import pytest

from liveavatar.bench import cpu
from liveavatar.bench.cpu import CpuBench, bench_cpu, to_json
from liveavatar.errors import InputError

BLOCKS = 2


@pytest.fixture(scope="module")
def measured(tiny_model: Path) -> CpuBench:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "WARM_BLOCKS", 1)
        patch.setattr(cpu.multiprocessing, "get_context", lambda _: InThisProcess())
        return bench_cpu(tiny_model, num_blocks=BLOCKS, sample_steps=1, threads=1)


class InThisProcess:
    """A substitute for a multiprocessing context whose pool calls functions at once."""

    Pool = staticmethod(lambda _: InThisProcess())

    def __enter__(self) -> "InThisProcess":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def apply(self, function: object, arguments: tuple[object, ...]) -> object:
        return function(*arguments)  # type: ignore[operator]


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
