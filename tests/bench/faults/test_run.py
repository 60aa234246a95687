"""The bench on true videos: one fault every day, all of them at night."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from liveavatar.bench.faults import plan
from liveavatar.bench.faults.report import summary
from liveavatar.bench.faults.run import is_held_out, run_bench, write_frames
from liveavatar.media.ffmpeg import read_frames
from liveavatar.quality.split import Clip, load_split

FOUND, FAILED = 0.95, 0.85  # shares of visible faults


def test_other_videos_and_some_faults_set_no_limit() -> None:
    clips = {clip.info.name: clip for clip in load_split()}
    assert clips.keys() - plan.SEEN_VIDEOS == {"03", "07"}, "the half that is reported"
    known, other = clips["00"], clips["03"]
    seen = plan.Fault("mosaic", 3, in_sound=False)
    unseen = plan.Fault("magenta", 40, in_sound=False)
    assert [is_held_out(c, f) for c in (known, other) for f in (None, seen, unseen)] == [
        False,
        False,
        True,
        True,
        True,
        True,
    ]


@pytest.fixture
def second(tmp_path: Path) -> Clip:
    """The first second of a true video."""
    clip = load_split()[0]
    for part in ("photo.webp", "speech.ogg", "labels.npz"):
        (tmp_path / f"{clip.info.name}.{part}").symlink_to(clip.path(part))
    frames = np.stack([frame.rgb for frame in islice(read_frames(clip.path("film.mkv")), 25)])
    write_frames(tmp_path / f"{clip.info.name}.film.mkv", frames)
    return Clip(tmp_path, replace(clip.info, num_frames=len(frames)))


def test_a_planted_fault_fails_for_its_own_reason(second: Clip) -> None:
    good, bad = run_bench([second], [plan.Fault("green", 60, in_sound=False)])
    assert (good.fault, "green_shift" in good.fired) == ("", False)
    assert (bad.fault, bad.status, "green_shift" in bad.fired) == ("green", "failed", True)
    assert bad.said


@pytest.mark.nightly
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
