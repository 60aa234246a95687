"""Read thousands of mutated files as the command reads them, and report every crash, hang, bomb and unclear error.

    python -m tests.fuzz.run --cases 10000 --seed 1

Each case takes a valid file of one kind (`tests.fuzz.seeds`), mutates it (`tests.fuzz.mutate`) and reads it in a child
process (`tests.fuzz.pool`). It must be read, or refused in one line with exit code 2, within 10 s of processor time and
1 GB of memory. A case is a function of seed and number: `--first N --cases 1` makes it again, `--keep FOLDER` keeps the
files of faults. The exit code is 1 when there are faults.
"""

import argparse
import hashlib
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from liveavatar.files import write_json
from liveavatar.hardware import cores
from tests.fuzz.mutate import mutate
from tests.fuzz.pool import Outcome, read_all
from tests.fuzz.readers import read
from tests.fuzz.seeds import MAKERS, make_seeds

SHARES = {"sound": 4, "film": 3, "picture": 6, "table": 2, "weights": 2, "model": 2}  # cases a round; others 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One mutated file."""

    number: int
    kind: str
    seed: int


class Fuzz:
    """A folder of seeds and of the cases made from them."""

    def __init__(self, folder: Path, kinds: tuple[str, ...] = tuple(MAKERS)) -> None:
        self.folder = folder
        self.seeds = make_seeds(folder / "seeds")
        self.round = [kind for kind in kinds for _ in range(SHARES.get(kind, 1))]

    def cases(self, seed: int, first: int, count: int) -> Iterator[Case]:
        """Iterate over cases by number."""
        for number in range(first, first + count):
            yield Case(number=number, kind=self.round[number % len(self.round)], seed=seed)

    def prepare(self, case: Case) -> tuple[str, Path]:
        """Write the file of a case, with what lies beside its seed; return its kind and path."""
        rng = random.Random(f"{case.seed}-{case.number}-{case.kind}")
        source, other = rng.choice(self.seeds[case.kind]), rng.choice(self.seeds[case.kind])
        data = mutate(source.read_bytes(), other.read_bytes(), rng)
        place = self.place(case)
        place.mkdir(parents=True)
        name = source.name
        if case.kind == "snapshot" and rng.random() < 0.7:  # a damaged one with a right digest, too
            name = f"block-000004-{hashlib.sha256(data).hexdigest()}.safetensors"
        for sibling in source.parent.iterdir():
            if case.kind in ("model", "record", "work", "playlist") and sibling.is_file() and sibling != source:
                (place / sibling.name).symlink_to(sibling)
        (place / name).write_bytes(data)
        return case.kind, place / name

    def place(self, case: Case) -> Path:
        """Folder of a case."""
        return self.folder / "cases" / f"{case.number:06d}"

    def run(self, seed: int, first: int, count: int, workers: int = 1) -> Iterator[tuple[Case, Outcome]]:
        """Read the files of cases; those without a fault are deleted."""
        for case, outcome in read_all(self.cases(seed, first, count), self.prepare, read, workers):
            if not outcome.is_fault:
                shutil.rmtree(self.place(case))
            yield case, outcome


def summary(results: list[tuple[Case, Outcome]]) -> dict[str, Any]:
    """Count outcomes by kind, with the longest time and the highest memory of each."""
    kinds: dict[str, list[Outcome]] = defaultdict(list)
    for case, outcome in results:
        kinds[case.kind].append(outcome)
    return {
        kind: {
            "cases": len(outcomes),
            **Counter(outcome.status for outcome in outcomes),
            "max_seconds": round(max(outcome.seconds for outcome in outcomes), 2),
            "max_mb": round(max(outcome.peak_bytes for outcome in outcomes) / 1e6),
        }
        for kind, outcomes in kinds.items()
    }


def say(row: dict[str, Any]) -> None:
    """Print a line of JSON."""
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--kinds", default=",".join(MAKERS), help="kinds of file, separated by commas")
    parser.add_argument("--workers", type=int, default=cores())
    parser.add_argument("--keep", type=Path, help="folder for the files of faults")
    parser.add_argument("--report", type=Path, help="JSON file for counts and faults")
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        fuzz = Fuzz(Path(folder), tuple(args.kinds.split(",")))
        results = []
        for case, outcome in fuzz.run(args.seed, args.first, args.cases, args.workers):
            results.append((case, outcome))
            if outcome.is_fault:
                say({"case": case.number, "kind": case.kind, "status": outcome.status, "detail": outcome.detail})
                if args.keep:
                    shutil.copytree(fuzz.place(case), args.keep / f"{case.kind}-{case.number}", dirs_exist_ok=True)
    faults = [{"case": c.number, "kind": c.kind, "status": o.status, "detail": o.detail}
              for c, o in results if o.is_fault]  # fmt: skip
    report = {"cases": len(results), "seed": args.seed, "first": args.first,
              "seconds": round(time.monotonic() - began), "kinds": summary(results), "faults": faults}  # fmt: skip
    if args.report:
        write_json(args.report, report)
    say({**report, "faults": len(faults)})
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
