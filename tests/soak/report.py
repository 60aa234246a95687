"""The report of a soak: tables by fault and place, from the JSON lines of its runs."""

import datetime
import json
import os
import platform
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from liveavatar import paths
from liveavatar.hardware import cores

GOOD = ("survived", "again", "ended")
PLACES = {"store": "between two commands"}

Row = dict[str, Any]


def struck(rows: Iterable[Row]) -> list[Row]:
    """Keep the runs whose fault struck."""
    return [row for row in rows if row["outcome"] != "missed"]


def summary(rows: list[Row]) -> dict[str, Any]:
    """Count the outcomes, and list every run that went wrong."""
    counts = Counter(row["outcome"] for row in rows)
    return {
        "runs": len(struck(rows)),
        "good": sum(counts[outcome] for outcome in GOOD),
        "outcomes": dict(sorted(counts.items())),
        "failed": [row for row in rows if row["outcome"] == "failed"],
    }


def lines_of(rows: list[Row]) -> list[str]:
    """Write one line of the table for each fault, target and stage."""
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in struck(rows):
        place = PLACES.get(row["stage"]) or row.get("struck_in", row["stage"])
        target = f"{row['target']}{', sound from a pipe' if row.get('piped') else ''}"
        groups[(row["fault"], target, place)].append(row)
    lines = []
    for (fault, target, place), runs in sorted(groups.items()):
        counts = Counter(row["outcome"] for row in runs)
        resumed = sorted({row["resumed_at"] for row in runs if row.get("resumed_at") is not None})
        cells = [
            fault,
            target,
            place,
            len(runs),
            counts["survived"],
            counts["again"],
            counts["ended"],
            counts["failed"],
        ]
        cells += [", ".join(map(str, resumed)) or "-", f"{statistics.median(row['seconds'] for row in runs):.0f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


def text_of(rows: list[Row], name: str, today: str) -> str:
    """Write the report."""
    counts = summary(rows)
    ends = [
        row["ended_s"]
        for row in struck(rows)
        if row["target"] == "driver" and row["fault"] in ("SIGTERM", "Ctrl-C") and "ended_s" in row
    ]
    head = [
        f"# Soak: renders while things go wrong, {today}",
        "",
        f"{name or platform.machine()}: {cores()} processors, torch {version('torch')}, Python "
        f"{platform.python_version()}; a random model of a few weights, 384*256, 24 blocks online.",
        f"Command: `python -m tests.soak.soak --runs {len(rows)} --seed {rows[0]['seed']}`.",
        "",
        f"**{counts['good']} of {counts['runs']} runs: latents, video and frame table equal to an undisturbed "
        "command's, byte for byte; no process left, nothing half-written.**",
        "",
        "*Survived*: the command that was struck made the film. *Again*: it was killed, interrupted or refused as the "
        "contract says (exit code 2, 3 or 4), and the same command given again made it. *Ended*: its sound came on a "
        "pipe, which cannot be given again; it ended as the contract says and kept what it had heard.",
        f"{counts['outcomes'].get('missed', 0)} more runs are not counted: the command was past the place.",
    ]
    if ends:
        head += [
            f"SIGTERM and Ctrl-C ended the command after {statistics.median(ends):.1f} s (median of {len(ends)}), "
            f"{max(ends):.1f} s at most."
        ]
    head += [
        "",
        "| fault | of | struck in | runs | survived | again | ended | failed | resumed at block | seconds (median) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    wrong = [
        f"- run {row['run']}: {row['fault']} of {row['target']}: {row.get('problem', '')}" for row in counts["failed"]
    ]
    return "\n".join([*head, *lines_of(rows), *(["", "What failed:", "", *wrong] if wrong else [])]) + "\n"


def write_report(source: Path, name: str, folder: Path = paths.BENCHMARKS) -> Path:
    """Write `soak_NAME_DATE.md` and `.json` from the JSON lines of runs; return the path of the first."""
    rows = sorted((json.loads(line) for line in source.read_text().splitlines()), key=lambda row: row["run"])
    today = datetime.datetime.fromtimestamp(os.stat(source).st_mtime, datetime.UTC).date().isoformat()
    path = folder / f"soak_{name or platform.machine()}_{today}.md"
    path.write_text(text_of(rows, name, today))
    path.with_suffix(".json").write_text(json.dumps({**summary(rows), "rows": rows}, separators=(",", ":")) + "\n")
    return path
