"""Groups of comparisons, the files that each needs, and the run over a fixture directory."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from liveavatar.errors import InputError
from liveavatar.parity import conditioning, dit, encoders, pipeline, schedule, vae
from liveavatar.parity.fixtures import Fixtures
from liveavatar.parity.report import Part, skipped

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckGroup:
    """Parts that are checked together, and the files they need."""

    names: tuple[str, ...]
    files: tuple[str, ...]
    tolerance: float
    check: Callable[[Fixtures], Iterator[Part]]
    requires: tuple[str, ...] = ()  # packages beyond the engine's own


def _rope_group(rope: str) -> CheckGroup:
    return CheckGroup(
        names=dit.part_names(rope),
        files=(*dit.FILES, f"dit_out_{rope}"),
        tolerance=dit.TOLERANCE[rope],
        check=lambda fix: dit.check(fix, rope),
    )


GROUPS = (
    CheckGroup(names=schedule.NAMES, files=schedule.FILES, tolerance=schedule.TOLERANCE, check=schedule.check),
    CheckGroup(
        names=("motion_packer.tokens", "motion_packer.rope"),
        files=("dit_weights", "motion_packer"),
        tolerance=dit.ENCODER_TOLERANCE,
        check=dit.check_motion_packer,
    ),
    CheckGroup(
        names=("audio_encoder",),
        files=("dit_weights", "audio_encoder"),
        tolerance=dit.ENCODER_TOLERANCE,
        check=dit.check_audio_encoder,
    ),
    _rope_group("exactrope"),
    _rope_group("refrope"),
    CheckGroup(names=vae.NAMES, files=vae.FILES, tolerance=vae.TOLERANCE, check=vae.check),
    *conditioning.groups(CheckGroup),
    *encoders.groups(CheckGroup),
    *pipeline.groups(CheckGroup),
)


def run_parity(directory: Path, prefix: str = "") -> list[Part]:
    """Check the engine against a fixture directory.

    Args:
        directory: laid out as the public set.
        prefix: check only groups with a part whose name begins so.

    Returns:
        One `Part` for everything the command knows, skipped ones included.

    Raises:
        InputError: when the directory is missing or a file in it is damaged.
    """
    fix = Fixtures(directory)
    parts: list[Part] = []
    for group in GROUPS:
        if any(name.startswith(prefix) for name in group.names):
            parts += _run_group(group, fix)
    return parts


def _run_group(group: CheckGroup, fix: Fixtures) -> list[Part]:
    absent = fix.missing(group.files)
    reason = f"the set has no {', '.join(absent)}" if absent else _missing_packages(group.requires)
    if reason:
        return [skipped(name, group.tolerance, reason) for name in group.names]
    logger.debug("checking %s", ", ".join(group.names))
    try:
        return list(group.check(fix))
    except (RuntimeError, KeyError, IndexError, TypeError, ValueError) as e:
        # Wrong shapes or missing weights in a readable file: the set is damaged or of another layout.
        raise InputError(
            f"parity fixtures {', '.join(group.files)} do not fit one another or the engine "
            f"({type(e).__name__}: {str(e).splitlines()[0][:300]}); copy the set from its source again"
        ) from e


def _missing_packages(names: tuple[str, ...]) -> str:
    absent = [n for n in names if find_spec(n) is None]
    return f"needs the package {', '.join(absent)}" if absent else ""
