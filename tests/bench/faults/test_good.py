"""The bench of good videos: how many there are, what is counted, and when the verdict is fine."""

from pathlib import Path

import pytest

from liveavatar.bench.faults.good import GoodRow, fine, markdown, run_good, summary, treatments, write_report
from liveavatar.bench.faults.harmless import PICTURE, SOUND
from liveavatar.errors import InputError
from liveavatar.files import read_json
from liveavatar.quality.split import load_split

ROWS = [
    *(GoodRow("01", "grain", held_out=True, status="passed", complaints={}) for _ in range(40)),
    GoodRow("00", "room", held_out=False, status="warned", complaints={"spots": 49.2}),
]


def test_there_are_at_least_two_hundred_good_videos() -> None:
    names = treatments(200, clips=8)
    assert len(names) * 8 >= 200
    assert names[0] == ""
    assert {names[1] in PICTURE, names[2] in SOUND} == {True}


@pytest.mark.parametrize("count", [0, 1000])
def test_more_than_there_are_is_refused(count: int) -> None:
    with pytest.raises(InputError, match=f"--good {count}: give 1 to"):
        treatments(count, clips=8)


def test_few_warnings_are_fine_and_a_failure_is_not() -> None:
    assert summary(ROWS)["held_out"] == {"videos": 40, "passed": 40, "warned": 0, "failed": 0}
    assert fine(ROWS)
    assert not fine(ROWS[-10:])
    assert not fine([*ROWS, GoodRow("00", "", held_out=False, status="failed", complaints={})])


def test_the_report_names_each_complaint(tmp_path: Path) -> None:
    assert "| room | 0 / 1 / 0 | 00: spots 49.2 |" in markdown(ROWS, "Good")
    page = write_report(ROWS, tmp_path)
    assert len(read_json(page.with_suffix(".json"))["rows"]) == len(ROWS)


@pytest.mark.nightly
def test_harmless_treatments_fail_no_good_video() -> None:
    rows = run_good(load_split()[1:2], ["", "H.264, crf 30", "small room", "its first second"])
    assert fine(rows), rows
