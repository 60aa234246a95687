"""The bench on true videos: a few faults every day, all of them at night."""

import pytest

from liveavatar.bench.faults import plan
from liveavatar.bench.faults.report import summary
from liveavatar.bench.faults.run import is_held_out, run_bench
from liveavatar.quality.split import load_split

FOUND, FAILED = 0.95, 0.85  # shares of visible faults


def test_odd_videos_and_some_faults_set_no_limit() -> None:
    even, odd = load_split()[:2]
    seen = plan.Fault("mosaic", 3, in_sound=False)
    unseen = plan.Fault("magenta", 40, in_sound=False)
    assert [is_held_out(c, f) for c in (even, odd) for f in (None, seen, unseen)] == [
        False,
        False,
        True,
        True,
        True,
        True,
    ]


def test_faults_of_sound_fail_on_a_true_video_that_passes() -> None:
    faults = [fault for fault in plan.faults() if fault.in_sound and str(fault) in plan.QUICK]
    rows = run_bench(load_split()[:1], faults)
    assert {(row.fault, row.status) for row in rows} == {
        ("", "passed"),
        *((fault.name, "failed") for fault in faults),
    }, rows
    assert all(bool(row.said) == bool(row.fault) for row in rows)


@pytest.mark.nightly
def test_the_verdict_finds_what_a_person_sees() -> None:
    rows = run_bench(load_split()[:2], list(plan.faults()))
    totals = summary(rows)
    assert totals["good"]["passed"] == totals["good"]["videos"]
    assert totals["visible"]["found_share"] >= FOUND
    assert totals["visible"]["failed_share"] >= FAILED
