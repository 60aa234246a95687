"""Numbers of denoise steps are compared on the split, and the fewest good ones recommended."""

from pathlib import Path

import pytest

from liveavatar import paths
from liveavatar.bench.quality.steps import recommend, sweep_split


def _row(steps: int, sync: float, psnr: float | None, ms: float = 20.0) -> dict[str, object]:
    return {"steps": steps, "size": "s", "clips": 1, "sync_error_frames": sync, "texture_psnr": psnr, "jerk_index": 1.0,
            "openness_corr": 0.9, "edge_jump": 1.0, "identity_ratio": 1.0, "ms_per_frame": ms}  # fmt: skip


def test_the_fewest_steps_that_are_as_good_as_any() -> None:
    rows = [_row(1, 1.0, 25.0), _row(2, 0.5, 27.0), _row(4, 0.45, 28.9, ms=50.0), _row(8, 0.4, 29.0)]
    assert recommend("s", rows)["recommended_steps"] == 4
    assert recommend("s", rows)["real_time_here"] is False
    assert recommend("s", [_row(1, 0.5, None), _row(2, 0.5, None)])["recommended_steps"] == 1


@pytest.mark.nightly
def test_steps_are_compared_on_the_split(short: Path) -> None:
    tables = list(sweep_split(paths.MINI_DIR, [1, 2], None, lambda _: None, short))
    assert [len(rows) for rows, _ in tables] == [1, 2]
    rows, sizes = tables[-1]
    assert [(r["steps"], r["size"], r["clips"]) for r in rows] == [(1, "all", 1), (2, "all", 1)]
    assert [s["size"] for s in sizes] == ["256*384"]
    assert sizes[0]["recommended_steps"] in (1, 2)
    assert all(r["ms_per_frame"] > 0 and r["openness_corr"] is not None for r in rows)
    assert rows[0]["openness_corr"] != rows[1]["openness_corr"]
