"""One check of the doctor: its finding, and the way out where something is wrong."""

from dataclasses import dataclass

OK, WARNING, FAILED = "ok", "warning", "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorCheck:
    """One check: its finding, and the way out where something is wrong."""

    name: str
    status: str  # ok, warning or failed
    detail: str  # what was found
    way_out: str = ""  # what to do about it; empty when ok
