"""Render one job again and again while things go wrong, at random but seeded points, and compare every video.

    python -m tests.soak.soak --runs 300 --seed 1 --lanes 8 --append soak.jsonl
    python -m tests.soak.soak --report soak.jsonl --name 16epyc

Run k of a seed is the same wherever it is made (`tests.soak.case`): every process is killed, stopped, interrupted and
terminated at every stage, files that are kept are damaged, disks get full, the clock jumps, several commands meet, and
the engine's own processes fail (`tests.soak.engine`). Each ends with the latents and the film of the undisturbed run,
byte for byte, at once or when it is given again, and leaves no process and nothing half-written. Lanes are runs side by
side, each with its share of the processors and homes of its own. With `--append`, runs that the file has are not made
again; `--report` writes the tables of such a file into `data/benchmarks`.
"""

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from liveavatar import paths
from tests.soak.case import ENGINE, Case, draw
from tests.soak.commands import Job, tail
from tests.soak.report import write_report
from tests.soak.runs import Runner

LANES_AN_ENGINE = 8  # one more lane with runs inside the engine for so many
ENGINE_SECONDS = 900.0  # for a run inside the engine


@dataclass(kw_only=True)
class EngineLane:
    """The process that makes the runs inside the engine (`tests.soak.engine`); started by the first of them."""

    folder: Path
    model_dir: Path
    _process: "subprocess.Popen[str] | None" = None
    _own: Path = field(init=False)  # folder of the process

    def run(self, case: Case) -> dict[str, Any]:
        """Make a run of a case."""
        started = time.monotonic()
        if self._process is None or self._process.poll() is not None:
            folder = self._own = Path(tempfile.mkdtemp(prefix="engine-", dir=self.folder))
            environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.soak.engine", str(folder), str(self.model_dir)], text=True,
                env={**environment, "LIVEAVATAR_HOME": str(folder / "home")}, cwd=paths.REPO_ROOT,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=(folder / "errors").open("w"),
            )  # fmt: skip
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(ENGINE_SECONDS, process.kill)
        timer.start()
        line = ""
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(case.facts()) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        timer.cancel()
        if line:
            return dict(json.loads(line))
        problem = f"the engine's driver ended ({process.wait()}): {tail(self._own / 'errors')}"
        seconds = round(time.monotonic() - started, 1)
        return {**case.facts(), "outcome": "failed", "problem": problem, "seconds": seconds}

    def end(self) -> None:
        """End the process."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
            try:
                self._process.wait(ENGINE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


@dataclass(kw_only=True)
class Lanes:
    """Runs side by side."""

    job: Job
    seed: int
    lanes: list[set[int]]  # processors of each
    keep: bool = False
    append: Path | None = None
    until: float = float("inf")  # on the clock of `time.monotonic`: no run begins after
    rows: list[dict[str, Any]] = field(default_factory=list)
    _writing: threading.Lock = field(default_factory=threading.Lock)

    def run(self, cases: list[Case]) -> None:
        """Make the runs; the first lanes begin with those inside the engine."""
        commands: queue.Queue[Case] = queue.Queue()
        engine: queue.Queue[Case] = queue.Queue()
        for case in cases:
            (engine if case.target == ENGINE else commands).put(case)
        inside = 1 + len(self.lanes) // LANES_AN_ENGINE
        threads = [
            threading.Thread(target=self._lane, args=(processors, commands, engine if number < inside else None))
            for number, processors in enumerate(self.lanes)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _lane(self, processors: set[int], commands: "queue.Queue[Case]", engine: "queue.Queue[Case] | None") -> None:
        os.sched_setaffinity(0, processors)  # of this thread and the processes that it starts
        runner = Runner(job=self.job, keep=self.keep)
        inside = EngineLane(folder=self.job.folder, model_dir=self.job.model_dir)
        try:
            with suppress(queue.Empty):
                while engine is not None and time.monotonic() < self.until:
                    self._note(inside.run(engine.get_nowait()))
            inside.end()
            with suppress(queue.Empty):
                while time.monotonic() < self.until:
                    self._note(runner.run(commands.get_nowait()))
        finally:
            inside.end()

    def _note(self, facts: dict[str, Any]) -> None:
        line = json.dumps({"seed": self.seed, **facts})
        with self._writing:
            self.rows.append(facts)
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            if self.append is not None:
                with self.append.open("a") as file:
                    file.write(line + "\n")


def shares(lanes: int, each: int = 0) -> list[set[int]]:
    """Share the processors of this process among lanes, as many for each; in turn when there are not enough."""
    every = sorted(os.sched_getaffinity(0))
    each = min(each or max(1, len(every) // lanes), len(every))
    return [{every[(lane * each + i) % len(every)] for i in range(each)} for lane in range(lanes)]


def cases_of(options: argparse.Namespace) -> list[Case]:
    """Draw the runs that are asked for, without those that the file has."""
    made = set()
    if options.append and options.append.exists():
        rows = [json.loads(line) for line in options.append.read_text().splitlines()]
        made = {row["run"] for row in rows if row["seed"] == options.seed}
    faults = tuple(part for part in options.faults.split(",") if part)
    numbers = range(options.first, options.first + options.runs)
    return [draw(options.seed, index, faults) for index in numbers if index not in made]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--first", type=int, default=0, help="index of the first run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lanes", type=int, default=1, help="runs side by side")
    parser.add_argument("--cores", type=int, default=0, help="processors of a lane; its part of them when absent")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no run begins after so long")
    parser.add_argument("--faults", default="", help='keeps to faults or targets, such as "kill -9,raylet"')
    parser.add_argument("--append", type=Path, help="JSON lines of the runs; a later call goes on")
    parser.add_argument("--model", type=Path, help="model directory; a tiny random one when absent")
    parser.add_argument("--folder", type=Path, help="of the runs, kept; a temporary one when absent")
    parser.add_argument("--list", action="store_true", help="print the runs and end")
    parser.add_argument("--report", type=Path, help="write the report of such a file and end")
    parser.add_argument("--name", default="", help="of the machine, in the report's file name")
    return parser.parse_args(arguments)


def main() -> int:
    """Run the command line; 1 when a run failed."""
    options = parse()
    started = time.monotonic()
    if options.report:
        sys.stdout.write(f"{write_report(options.report, options.name)}\n")
        return 0
    cases = cases_of(options)
    if options.list:
        sys.stdout.writelines(json.dumps(case.facts()) + "\n" for case in cases)
        return 0
    from tests.conftest import make_tiny_model

    lanes = shares(options.lanes, options.cores)
    before = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        model_dir = options.model or make_tiny_model(folder / "tiny")
        os.sched_setaffinity(0, lanes[0])  # what a film is depends on the number of processors
        job = Job(folder=folder, model_dir=model_dir, crowd=max(1.0, sum(map(len, lanes)) / len(before)))
        os.sched_setaffinity(0, before)
        soak = Lanes(
            job=job,
            seed=options.seed,
            lanes=lanes,
            keep=options.folder is not None,
            append=options.append,
            until=started + 60 * options.minutes,
        )
        soak.run(cases)
    return int(any(row["outcome"] == "failed" for row in soak.rows))


if __name__ == "__main__":
    sys.exit(main())
