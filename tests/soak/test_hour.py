"""Some minutes of film: memory does not grow with length, nor does the time of a block."""

from pathlib import Path

import pytest

from tests.soak.hour import HOUR_BLOCKS, growth, judge, measure


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [60, pytest.param(400, marks=pytest.mark.nightly)])
def test_memory_is_flat_and_blocks_take_the_same_time(blocks: int, tiny_model: Path, tmp_path: Path) -> None:
    measured = measure(tiny_model, tmp_path, blocks)
    assert not judge(measured), measured["readings"][:: max(1, len(measured["readings"]) // 10)]


@pytest.mark.parametrize(
    ("growth_mb", "last_ms", "says"), [(40.0, 10.0, "memory grew"), (1.0, 20.0, "blocks take"), (1.0, 10.0, "")]
)
def test_growth_and_slowness_are_noticed(growth_mb: float, last_ms: float, says: str) -> None:
    wrong = judge({"blocks": HOUR_BLOCKS, "growth_mb": growth_mb, "first_ms": 10.0, "last_ms": last_ms})
    assert says in "".join(wrong)
    assert bool(wrong) == bool(says)


@pytest.mark.parametrize("step_at", [15, 36, 55])
def test_one_step_of_the_allocator_is_no_growth(step_at: int) -> None:
    assert growth([(block, 1480.0 + 4.0 * (block >= step_at)) for block in range(12, 60)]) < 0.1


@pytest.mark.parametrize("arena_mb", [0.0, 0.5])
def test_a_leak_is_growth_also_if_memory_comes_in_arenas(arena_mb: float) -> None:
    leaked = [(block, 0.07 * block) for block in range(12, 60)]
    readings = [(block, mb // arena_mb * arena_mb if arena_mb else mb) for block, mb in leaked]
    assert growth(readings) == pytest.approx(0.07 * 47, rel=0.25)
