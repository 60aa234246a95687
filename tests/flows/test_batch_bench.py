"""Measurement of a batch of tiny jobs: from its log to seconds and memory a job."""

import csv
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from flows.batch_bench import bench_batch, make_table, measure, summary, to_lines, write_report
from liveavatar.errors import InputError


def line(second: float, event: str, stage: str, message: str = "", cached: bool = False) -> str:
    time = datetime.fromtimestamp(1e9 + second, UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": time, "event": event, "stage": stage, "message": message, "cached": cached})


def log(jobs: int, overhead: float) -> list[str]:
    """The log of jobs that take 2 s of work, of which one stage is cached."""
    lines, now = ["a library's own words", json.dumps({"time": 3})], 0.0
    for index in range(jobs):
        lines += [line(now, "begin", "features"), line(now + 0.1, "end", "features", cached=True)]
        lines += [line(now + 0.1, "begin", "render"), line(now + 2.1, "end", "render")]
        now += 2 + overhead
        lines += [line(now - 0.1, "begin", "publish"), line(now, "end", "publish")]
        left = jobs - index - 1
        told = f"batch: job {index + 1}/{jobs} a.wav: passed" + (f"; {left} to go, {left * 3} s left" if left else "")
        lines.append(line(now, "note", "batch", told))
    return lines


def test_overhead_is_what_is_not_work() -> None:
    heard: list[str] = []
    measured = measure(log(40, overhead=0.5), psutil.Process(os.getpid()), heard.append)
    assert len(measured) == len(heard) == 40
    assert all(job.overhead_s == pytest.approx(0.5, abs=0.01) for job in measured)
    assert all(job.work_s == pytest.approx(2.0, abs=0.01) for job in measured)
    assert all(job.memory_mb > 10 for job in measured)
    told = summary(measured)
    assert told["overhead_s_by_tenth"] == [0.5] * 10
    assert told["wall_s"] == 2.5
    assert told["estimate_error"] == pytest.approx(36 * 3 / (36 * 2.5) - 1, abs=0.01)


def test_jobs_differ_in_their_seeds_only(tmp_path: Path) -> None:
    import soundfile

    table = make_table(30, tmp_path)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == [str(seed) for seed in range(30)]
    assert {Path(row["audio"]).is_file() and Path(row["image"]).is_file() for row in rows} == {True}
    assert soundfile.info(rows[0]["audio"]).duration == pytest.approx(0.5)


def test_too_few_jobs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--jobs 5 is too few for deciles; take 20 or more"):
        bench_batch(5, tmp_path)


def test_the_report_has_both_passes(tmp_path: Path) -> None:
    told = summary(measure(log(20, overhead=0.25), psutil.Process(os.getpid())))
    result = {"jobs": 20, "model": "/models/small", "locked": 0, "rendered": told, "cached": told}
    page = write_report(result, tmp_path).read_text()
    assert to_lines(result) in page
    assert "`liveavatar bench batch --jobs 20 --model small`" in page
    assert "## Every job cached" in page
    assert "| overhead, s | 0.25 |" in page
    assert json.loads(next(tmp_path.glob("batch_*.json")).read_text())["jobs"] == 20
