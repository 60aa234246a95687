"""`liveavatar runs`: the catalogue of published runs as lines, JSON or a Parquet file."""

import json
from pathlib import Path
from typing import Any

from flows.cli.store import age
from flows.terminal import say
from liveavatar.errors import InputError
from liveavatar.files import disk_errors, replacing
from tasks.catalogue import KEPT, CatalogueRecord, damaged_records, recorded_runs

SHOWN = 20  # runs without --most


def runs_command(options: dict[str, Any]) -> int:
    """List recorded runs, the newest first, or write them to a file."""
    most, status, named = options["most"], options["status"], options["name"]
    if most is not None and most < 1:
        raise InputError(f"--most {most}: give a number from 1 on")
    found = [
        run
        for run in recorded_runs()
        if status in (None, run.status) and (named is None or named.lower() in f"{run.name} {run.out}".lower())
    ]
    if options["parquet"]:
        chosen = found[: most or KEPT]
        write_parquet(chosen, Path(options["parquet"]))
        say(f"{options['parquet']}: {len(chosen)} runs")
        return 0
    chosen = found[: most or SHOWN]
    if options["json"]:
        say(json.dumps([run.row for run in chosen], indent=2, ensure_ascii=False))
        return 0
    for line in lines(chosen):
        say(line)
    if len(chosen) < len(found):
        say(f"and {len(found) - len(chosen)} older ones: --most N lists them, --parquet FILE has all")
    if damaged := len(damaged_records()):
        say(f"left out: {damaged} damaged record(s) of the catalogue; `liveavatar store verify` names them")
    return 0


def lines(runs: list[CatalogueRecord]) -> list[str]:
    """Describe runs in a line each."""
    if not runs:
        return ["no such run: a run is recorded when it is published, `liveavatar render` makes one"]
    head = f"{'finished':<12} {'status':<7} {'sound, picture':<28} {'sound s':>8} {'fps':>6} {'seed':>6}  folder"
    return [head, *(_line(run) for run in runs)]


def _line(run: CatalogueRecord) -> str:
    seconds, fps, seed = (run.facts.get(name) for name in ("seconds", "fps", "seed"))
    gone = "" if run.folder is not None else "  (gone, or made again)"
    numbers = f"{_number(seconds):>8} {_number(fps):>6} {'-' if seed is None else seed:>6}"
    return f"{age(run.finished):<12} {run.status:<7} {run.name[:28]:<28} {numbers}  {run.out}{gone}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def write_parquet(runs: list[CatalogueRecord], path: Path) -> None:
    """Write runs as a table: one row a run, one column a fact or measure.

    Raises:
        InputError: there are no runs, or the folder does not exist.
    """
    if not runs:
        raise InputError(f"--parquet {path}: there is no such run to write")
    if not path.parent.is_dir() or path.is_dir():
        raise InputError(f"--parquet {path}: it is a folder, or its folder is not there; give the name of a file")
    import pandas as pd

    table = pd.DataFrame([run.row for run in runs]).convert_dtypes()
    table["finished"] = pd.to_datetime(table["finished"].astype(float), unit="s", utc=True)
    with disk_errors(path), replacing(path) as temporary:
        table.to_parquet(temporary, index=False)
