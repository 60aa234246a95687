"""Outcomes of a batch while it runs: the line after each job, and the files that grow."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from flows import batch_table
from flows.batch_table import BatchTable, duration


def row(out: Path, status: str = "passed", reason: str = "") -> dict[str, Any]:
    return {"out": str(out), "status": status, "exit_code": 0, "reason": reason}


def test_files_grow_and_the_line_tells_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, *[100.0] * 4, *[200.0] * 9])
    monkeypatch.setattr(batch_table.time, "monotonic", lambda: next(clock))
    table = BatchTable(tmp_path / "b", ["anna.wav", "<b>.wav", "carl.wav", "dora.wav"])
    table.refuse(1, row(tmp_path / "b" / "1", "refused", "no <i>sound"))
    done = tmp_path / "b" / "0 a"
    done.mkdir()
    (done / "video.mp4").touch()
    assert table.add(0, row(done)) == "job 1/4 anna.wav: passed; 2 to go, 3 min left"
    assert [entry["job"] for entry in json.loads((tmp_path / "b" / "batch.json").read_text())] == [0, 1]
    page = (tmp_path / "b" / "batch.html").read_text()
    assert 'src="0%20a/video.mp4"' in page
    assert ("refresh" in page, "2 of 4 jobs" in page, "&lt;b&gt;.wav" in page, "<i>" in page) == (True,) * 3 + (False,)
    table.add(3, row(tmp_path / "b" / "3", "crashed"))
    assert table.add(2, row(tmp_path / "b" / "2", "failed")) == "job 3/4 carl.wav: failed"
    assert [entry["status"] for entry in table.rows()] == ["passed", "refused", "failed", "crashed"]
    stored = pyarrow.parquet.read_table(tmp_path / "b" / "batch.parquet").to_pylist()
    assert [entry["job"] for entry in stored] == [0, 1, 2, 3]
    assert "refresh" not in (tmp_path / "b" / "batch.html").read_text()


def test_what_is_left_is_known_after_the_first_tenth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(batch_table.time, "monotonic", lambda: now)
    table = BatchTable(tmp_path, ["a.wav"] * 100)
    for index in range(10):
        now += 300 if index == 0 else 9 + index % 3  # the first loads the model
        line = table.add(index, row(tmp_path / str(index)))
    assert line == "job 10/100 a.wav: passed; 90 to go, 15 min left"


def test_a_thousand_short_jobs_write_the_files_a_few_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[Path] = []
    monkeypatch.setattr(batch_table, "write_atomically", lambda path, data: writes.append(path))
    table = BatchTable(tmp_path, ["a.wav"] * 1000)
    for index in range(1000):
        table.add(index, row(tmp_path / str(index)))
    assert len(table.rows()) == 1000
    assert len(writes) < 20


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "1 s"), (45, "45 s"), (240, "4 min"), (9000, "2.5 h")])
def test_durations_have_one_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text
