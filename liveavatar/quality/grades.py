"""Grades of a video's measures by the limits alone, without Great Expectations: what a bench of many videos needs.

`suites.judge` is the verdict; a test holds the two equal.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from liveavatar.quality.absence import Absence
from liveavatar.quality.evaluate import QualityResult
from liveavatar.quality.limit import Limit
from liveavatar.quality.limits import ROW_LIMITS, RowLimit, grade, limits_for

if TYPE_CHECKING:
    import pandas as pd

ABSENT = {Absence.NOT_APPLICABLE: "skipped", Absence.NOT_POSSIBLE: "failed", Absence.FAULT: "failed"}
ORDER = ("skipped", "passed", "warned", "failed")  # from best to worst


def grades(result: QualityResult, limits: Sequence[Limit] | None = None) -> dict[str, str]:
    """Grade every measure and column: name -> "passed", "warned", "failed" or "skipped"."""
    found = {}
    for limit in limits_for(result, limits):
        value = result.metrics.get(limit.name)
        absence = result.absences.get(limit.name, Absence.NOT_POSSIBLE)
        found[limit.name] = ABSENT[absence] if value is None else grade(value, limit)
    for row in ROW_LIMITS:
        column = (result.frames if row.table == "frames" else result.blocks)[row.column].dropna()
        if len(column):
            found[row.name] = _row_grade(row, float(_inside(row, column).mean()))
    return found


def status_of(found: dict[str, str]) -> str:
    """Take the worst grade of a video's; one that skipped all has passed."""
    worst = max(found.values(), key=ORDER.index)
    return "passed" if worst == "skipped" else worst


def _inside(row: RowLimit, column: "pd.Series[float]") -> "pd.Series[bool]":
    low, high = row.between
    return column.between(-float("inf") if low is None else low, float("inf") if high is None else high)


def _row_grade(row: RowLimit, share: float) -> str:
    if share >= row.good:
        return "passed"
    return "warned" if share >= row.tolerable else "failed"
