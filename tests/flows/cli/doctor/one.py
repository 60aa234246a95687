"""The one check that a probe makes."""

from collections.abc import Iterator

from flows.cli.doctor.check import DoctorCheck


def only(checks: Iterator[DoctorCheck]) -> DoctorCheck:
    """Give the only check of a probe."""
    (check,) = checks
    return check
