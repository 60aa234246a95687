"""Report of the fault bench: the matrix of faults and grades, and how many of them were found."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from liveavatar.bench.dated import today, write_dated
from liveavatar.bench.faults.run import Row

GRADES = ("failed", "warned", "passed")


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Count the grades of visible faults, all and on the part that set no limit, and of good videos."""
    faulty = [row for row in rows if row.fault and not row.slight]
    return {
        "visible": _counts(faulty),
        "held_out": _counts(row for row in faulty if row.held_out),
        "slight": _counts(row for row in rows if row.slight),
        "good": _counts(row for row in rows if not row.fault),
    }


def _counts(rows: Iterable[Row]) -> dict[str, float | int]:
    count = Counter(row.status for row in rows)
    total = sum(count.values())
    shares = {} if not total else {
        "failed_share": round(count["failed"] / total, 4),
        "found_share": round((count["failed"] + count["warned"]) / total, 4),
    }  # fmt: skip
    return {"videos": total, **{grade: count[grade] for grade in GRADES}, **shares}


def markdown(rows: Sequence[Row], heading: str) -> str:
    """Write the matrix as a page of Markdown."""
    totals = summary(rows)
    lines = [f"# {heading}", "", "| part | videos | failed | warned | passed |", "|---|---|---|---|---|"]
    names = {
        "visible": "faults that a person sees or hears",
        "held_out": "of these, on videos or of kinds that set no limit",
        "slight": "slight faults",
        "good": "good videos",
    }
    for key, name in names.items():
        part = totals[key]
        lines.append(f"| {name} | {part['videos']} | " + " | ".join(_share(part, grade) for grade in GRADES) + " |")
    lines += ["", "| fault | failed / warned / passed | checks that failed (videos) |", "|---|---|---|"]
    kinds = dict.fromkeys((row.fault, row.strength, row.slight) for row in rows)
    for fault, strength, slight in kinds:
        group = [row for row in rows if (row.fault, row.strength) == (fault, strength)]
        count = Counter(row.status for row in group)
        fired = Counter(name for row in group for name in row.fired).most_common(6)
        name = "none" if not fault else f"{fault} {strength:g}" + (" (slight)" if slight else "")
        grades = " / ".join(str(count[grade]) for grade in GRADES)
        lines.append(f"| {name} | {grades} | {', '.join(f'{check} {n}' for check, n in fired)} |")
    return "\n".join(lines) + "\n"


def write_report(rows: Sequence[Row], folder: Path) -> Path:
    """Write the matrix (`faults_<date>.md`) and the rows (.json) into a folder; return the page."""
    page = markdown(rows, f"Planted faults and what the verdict finds, {today()}")
    return write_dated(folder, f"faults_{today()}", page, {**summary(rows), "rows": [asdict(row) for row in rows]})


def _share(part: dict[str, Any], grade: str) -> str:
    total = part["videos"]
    return f"{part[grade]} ({part[grade] / total:.1%})" if total else "0"
