"""Grades without Great Expectations; `test_limits` holds them equal to the suites' for every limit."""

from dataclasses import replace

import pytest

from liveavatar.quality.absence import Absence
from liveavatar.quality.grades import grades, status_of
from tests.quality.results import result


@pytest.mark.parametrize(
    ("absence", "grade"),
    [
        pytest.param(Absence.NOT_APPLICABLE, "skipped", id="rightly nothing to measure"),
        pytest.param(Absence.NOT_POSSIBLE, "failed", id="a model is missing"),
        pytest.param(Absence.FAULT, "failed", id="the video lacks it"),
    ],
)
def test_a_missing_measure_is_graded_by_its_reason(absence: Absence, grade: str) -> None:
    assert grades(replace(result({}), absences={"flicker": absence}))["flicker"] == grade


@pytest.mark.parametrize(
    ("found", "status"),
    [
        pytest.param(["skipped", "passed"], "passed", id="good"),
        pytest.param(["skipped"], "passed", id="nothing to judge"),
        pytest.param(["passed", "warned"], "warned", id="doubtful"),
        pytest.param(["failed", "warned"], "failed", id="bad"),
    ],
)
def test_the_worst_grade_counts(found: list[str], status: str) -> None:
    assert status_of(dict(zip("ab", found, strict=False))) == status
