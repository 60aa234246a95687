"""Measurement behind `liveavatar bench batch`: what a batch of many tiny jobs costs beside the work itself.

The batch runs as a command of its own, twice: the first time every job renders 12 frames, the second time everything
is in the store. Its JSON log says when stages begin and end.
"""

import csv
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from liveavatar.bench.dated import today, write_dated
from liveavatar.errors import InputError
from liveavatar.paths import SAMPLES, prefect_home

DEFAULT_MODEL = "mini"
SOUND_SECONDS = 0.5  # one block; the shortest that is taken
PARTS = 10  # deciles of the jobs
LOCKED = "database is locked"
LEFT = re.compile(r"; (\d+) to go, ([\d.]+) (s|min|h) left")
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyJob:
    """One job of the batch."""

    wall_s: float
    work_s: float  # stages that were made: rendering, judging
    memory_mb: float  # resident, of the command
    expected_s: float | None  # the time left that the batch told after it

    @property
    def overhead_s(self) -> float:
        """Seconds beside the work: look-ups, Prefect, publishing."""
        return self.wall_s - self.work_s


def bench_batch(
    jobs: int, folder: Path, model: str = DEFAULT_MODEL, on_job: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Render a batch of tiny jobs twice and measure each job.

    Args:
        jobs: how many; 20 or more.
        folder: for inputs and videos.
        model: name or folder of the model that renders.
        on_job: called with the line about each job.

    Raises:
        InputError: too few jobs, or the batch does not run.
    """
    if jobs < 2 * PARTS:
        raise InputError(f"--jobs {jobs} is too few for deciles; take {2 * PARTS} or more")
    table = make_table(jobs, folder)
    before = _locked()
    passes = {name: _run(table, folder / name, model, on_job) for name in ("rendered", "cached")}
    return {
        "jobs": jobs,
        "model": model,
        "locked": _locked() - before,
        **{name: summary(measured) for name, measured in passes.items()},
        "rows": {name: [asdict(job) for job in measured] for name, measured in passes.items()},
    }


def make_table(jobs: int, folder: Path) -> Path:
    """Write the sound of one block and a table of jobs that differ in their seeds; return the table."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    samples, rate = soundfile.read(SAMPLES / "speech.wav")
    soundfile.write(folder / "short.wav", samples[rate // 2 : rate // 2 + int(SOUND_SECONDS * rate)], rate)
    prompt = (SAMPLES / "prompt.txt").read_text().strip()
    rows = [
        {
            "audio": folder / "short.wav",
            "image": SAMPLES / "portrait.png",
            "prompt": prompt,
            "seed": seed,
            "num_clip": 1,
        }
        for seed in range(jobs)
    ]
    table = folder / "jobs.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return table


def _run(table: Path, out: Path, model: str, on_job: Callable[[str], None]) -> list[TinyJob]:
    options = ["--out", str(out), "--model", model, "--sample_steps", "1"]
    command = [sys.executable, "-m", "flows.cli", "batch", str(table), *options]
    environment = {**os.environ, "LIVEAVATAR_LOG": "json"}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        measured = measure(process.stderr, psutil.Process(process.pid), on_job)
    if not measured:
        raise InputError(f"the batch of {table} ended without a job; try `liveavatar batch {table}`")
    return measured


def measure(
    log: Iterable[str], process: psutil.Process, on_job: Callable[[str], None] = lambda _: None
) -> list[TinyJob]:
    """Measure the jobs of a batch from its JSON log while it runs.

    Args:
        log: its lines.
        process: of the batch, whose memory is read when a job ends.
        on_job: called with the line about each job.
    """
    measured: list[TinyJob] = []
    began: float | None = None  # of the job
    work, stage_began = 0.0, 0.0
    for line in log:
        try:
            event = json.loads(line)
            now = datetime.datetime.fromisoformat(event["time"]).timestamp()
        except (ValueError, KeyError, TypeError):
            continue  # a library's own words
        if event.get("event") == "begin":
            stage_began = now
            began = now if began is None else began
        elif event.get("event") == "end" and not event.get("cached") and event["stage"] != "publish":
            work += now - stage_began
        elif event.get("event") == "note" and event.get("stage") == "batch" and began is not None:
            memory = process.memory_info().rss / 1e6
            measured.append(
                TinyJob(wall_s=now - began, work_s=work, memory_mb=memory, expected_s=_expected(event["message"]))
            )
            on_job(event["message"])
            began, work = now, 0.0
    return measured


def _expected(line: str) -> float | None:
    told = LEFT.search(line)
    return None if told is None else float(told[2]) * UNITS[told[3]]


def _locked() -> int:
    """Count the lines of the log of Prefect's local server that tell of a locked database."""
    try:
        return (prefect_home() / "server.log").read_text(errors="replace").count(LOCKED)
    except OSError:
        return 0


def summary(measured: list[TinyJob]) -> dict[str, Any]:
    """Summarise a pass: seconds and memory by tenths of the jobs, and how far the estimate after a tenth was off."""
    tenth = len(measured) // PARTS
    parts = [measured[i * tenth : (i + 1) * tenth] for i in range(PARTS)]
    left = sum(job.wall_s for job in measured[tenth:])
    expected = measured[tenth - 1].expected_s
    return {
        "overhead_s": round(statistics.median(job.overhead_s for job in measured), 2),
        "wall_s": round(statistics.median(job.wall_s for job in measured), 2),
        "overhead_s_by_tenth": [round(statistics.median(job.overhead_s for job in part), 2) for part in parts],
        "memory_mb_by_tenth": [round(statistics.median(job.memory_mb for job in part)) for part in parts],
        "estimate_error": None if expected is None else round(expected / left - 1, 2),
    }


def to_lines(result: dict[str, Any]) -> str:
    """Format the tables of a result in markdown."""
    lines = [f"{result['jobs']} jobs of one block, {result['locked']} errors of a locked database."]
    for name in ("rendered", "cached"):
        told = result[name]
        lines += [
            f"\n## Every job {name}\n\noverhead of a job {told['overhead_s']} s (median), a job {told['wall_s']} s in "
            f"all; estimate after a tenth of the jobs off by {told['estimate_error']}\n",
            "| tenth of the jobs | " + " | ".join(str(i + 1) for i in range(PARTS)) + " |",
            "|---" * (PARTS + 1) + "|",
            "| overhead, s | " + " | ".join(map(str, told["overhead_s_by_tenth"])) + " |",
            "| memory of the command, MB | " + " | ".join(map(str, told["memory_mb_by_tenth"])) + " |",
        ]
    return "\n".join(lines) + "\n"


def write_report(result: dict[str, Any], folder: Path) -> Path:
    """Write the dated page, and its numbers as JSON beside it."""
    machine = f"{os.cpu_count()} cores, load {os.getloadavg()[1]:.1f} at the end"
    command = f"liveavatar bench batch --jobs {result['jobs']}"
    if result["model"] != DEFAULT_MODEL:
        command += f" --model {Path(result['model']).name}"
    page = f"# A batch of tiny jobs, {today()}\n\n`{command}`, {machine}. "
    return write_dated(folder, f"batch_{today()}", page + to_lines(result), result)
