"""Grades of a video's measures by the limits alone, without Great Expectations, whose import takes six seconds.

`suites.judge` takes either; a test holds the two equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from liveavatar.quality.absence import Absence
from liveavatar.quality.evaluate import QualityResult
from liveavatar.quality.limit import Limit
from liveavatar.quality.limits import ROW_LIMITS, RowLimit, grade, limits_for

if TYPE_CHECKING:
    import pandas as pd

ABSENT = {Absence.NOT_APPLICABLE: "skipped", Absence.NOT_POSSIBLE: "failed", Absence.FAULT: "failed"}
ORDER = ("skipped", "passed", "warned", "failed")  # from best to worst


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one comparison."""

    success: bool
    share: float  # of rows that comply


def compare(result: QualityResult, limits: Sequence[Limit], rows: Sequence[RowLimit]) -> dict[tuple[str, str], Finding]:
    """Compare measures and columns that are there with both ranges; keys are (check, "good" or "tolerable")."""
    found = {}
    for limit in limits:
        got = grade(float(result.metrics[limit.name] or 0), limit)
        found[limit.name, "good"] = Finding(got == "passed", float(got == "passed"))
        found[limit.name, "tolerable"] = Finding(got != "failed", float(got != "failed"))
    for row in rows:
        share = _share(result, row)
        found[row.name, "good"] = Finding(share >= row.good, share)
        found[row.name, "tolerable"] = Finding(share >= row.tolerable, share)
    return found


def grades(result: QualityResult, limits: Sequence[Limit] | None = None) -> dict[str, str]:
    """Grade every measure and column: name -> "passed", "warned", "failed" or "skipped"."""
    found = {}
    for limit in limits_for(result, limits):
        value = result.metrics.get(limit.name)
        absence = result.absences.get(limit.name, Absence.NOT_POSSIBLE)
        found[limit.name] = ABSENT[absence] if value is None else grade(value, limit)
    for row in ROW_LIMITS:
        if column_of(result, row).notna().any():
            found[row.name] = _row_grade(row, _share(result, row))
    return found


def status_of(found: dict[str, str]) -> str:
    """Take the worst grade of a video's; one that skipped all has passed."""
    worst = max(found.values(), key=ORDER.index)
    return "passed" if worst == "skipped" else worst


def column_of(result: QualityResult, row: RowLimit) -> "pd.Series[float]":
    """Select the column that a limit is on."""
    return (result.frames if row.table == "frames" else result.blocks)[row.column]


def _share(result: QualityResult, row: RowLimit) -> float:
    return float(_inside(row, column_of(result, row).dropna()).mean())


def _inside(row: RowLimit, column: "pd.Series[float]") -> "pd.Series[bool]":
    low, high = row.between
    return column.between(-float("inf") if low is None else low, float("inf") if high is None else high)


def _row_grade(row: RowLimit, share: float) -> str:
    if share >= row.good:
        return "passed"
    return "warned" if share >= row.tolerable else "failed"
