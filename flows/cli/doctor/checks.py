"""All checks in their order, as lines and as JSON."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from flows.cli.doctor.check import FAILED, DoctorCheck
from flows.cli.doctor.installation import (
    check_ffmpeg,
    check_models,
    check_packages,
    check_python,
    check_torch,
    check_whisper,
)
from flows.cli.doctor.machine import check_disk, check_gpus, check_memory, check_ports, check_processor
from flows.cli.doctor.surroundings import (
    check_certificates,
    check_folder,
    check_inherited,
    check_proxies,
    check_services,
    check_temporary_folder,
)
from liveavatar.paths import home, outputs


def run_checks(out: Path | None = None) -> list[DoctorCheck]:
    """Run all checks. `out` is where renders would go; where those go that name none, when None.

    A warning costs speed or a feature; a failure stops renders.
    """
    places = (home(), out or outputs().absolute())
    probes: tuple[Callable[[], Iterator[DoctorCheck]], ...] = (
        check_python, check_packages, check_torch, check_processor, check_memory, lambda: check_disk(places),
        check_ffmpeg, check_whisper, check_models, check_gpus, check_services, check_ports,
        check_proxies, check_certificates, check_temporary_folder, check_inherited, check_folder,
    )  # fmt: skip
    return [check for probe in probes for check in probe()]


def exit_code(checks: list[DoctorCheck]) -> int:
    """Return 0 when nothing failed, else 3: renders do not work on this machine as it is."""
    return 3 if any(c.status == FAILED for c in checks) else 0


def to_lines(checks: list[DoctorCheck]) -> str:
    """Format one line a check, and a second one with the way out where something is wrong."""
    width = max(len(c.name) for c in checks)
    lines = []
    for c in checks:
        lines.append(f"{c.status:<8} {c.name:<{width}}  {c.detail}")
        if c.way_out:
            lines.append(f"{'':<8} {'':<{width}}  -> {c.way_out}")
    return "\n".join(lines) + "\n"


def to_json(checks: list[DoctorCheck]) -> str:
    """Format the checks as a JSON list."""
    return json.dumps([asdict(c) for c in checks], indent=2) + "\n"
