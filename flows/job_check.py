"""Checks of a table of jobs before the first is rendered: columns, folders, and what a row says without its files.

A column or a folder that is wrong refuses the table; a row that is wrong is refused alone, and the others are rendered.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flows import preflight
from flows.parameters import RenderParameters, meant, read_parameters
from liveavatar.errors import InputError, LiveAvatarError
from liveavatar.files import exists

Job = dict[str, Any]
OF_A_ROW = ("audio", "image", "prompt", "out", "seed")  # options that no setting of the others contradicts


def check_columns(jobs: Iterable[Job]) -> None:
    """Refuse a column that is no option of a render.

    Raises:
        InputError: naming the option that may be meant.
    """
    options = RenderParameters.model_fields
    for name in dict.fromkeys(name for job in jobs for name in job):
        if name not in options:
            raise InputError(f"the column {name[:40]!r} of the table is no option of a render{meant(name)}")


def name_outputs(jobs: list[Job], out: Path) -> list[Job]:
    """Give each job without `out` a folder below `out`.

    Raises:
        InputError: a folder lies outside of `out` and of the working folder, or in that of another row, where one
            would replace the other.
    """
    named: list[Job] = []
    rows: dict[Path, int] = {}
    roots = (out.resolve(), Path.cwd())
    for index, job in enumerate(jobs):
        folder = str(job.get("out") or out / f"{index:03d}-{Path(str(job.get('audio', 'job'))).stem}")
        place = _resolved(folder, index)
        if not any(place.is_relative_to(root) for root in roots) or place in roots:
            raise InputError(
                f"row {index + 1} of the table: out {folder} does not lie below --out or the working folder; give "
                "--out a folder that holds those of all rows"
            )
        before = rows.setdefault(place, index)
        if before != index:
            raise InputError(
                f"rows {before + 1} and {index + 1} of the table have the same out {folder}, and the second would "
                "replace the first; give each its own, or none"
            )
        named.append({**job, "out": folder})
    for place, index in rows.items():
        around = next((rows[parent] for parent in place.parents if parent in rows), None)
        if around is not None:
            raise InputError(
                f"row {index + 1} of the table has an out in that of row {around + 1}, {named[around]['out']}; give "
                "each its own, or none"
            )
    return named


def refusals(jobs: list[Job]) -> dict[int, LiveAvatarError]:
    """Find the rows that cannot be rendered, by their place in the list; opens no sound and no picture."""
    found: dict[int, LiveAvatarError] = {}
    judged: dict[tuple[Any, ...], LiveAvatarError | None] = {}  # settings, most of which many rows have in common
    for index, job in enumerate(jobs):
        try:
            parameters = read_parameters(job)
            preflight.refuse_pipe(parameters)
            settings = tuple(value for name, value in parameters if name not in OF_A_ROW)
            if settings not in judged:
                judged[settings] = _error_of(parameters)
            error = judged[settings]
            if error is not None:
                raise error
            preflight.check_texts(parameters)
            _find_files(parameters)
        except LiveAvatarError as e:
            found[index] = e
    return found


def _error_of(parameters: RenderParameters) -> LiveAvatarError | None:
    try:
        preflight.check_settings(parameters)
    except LiveAvatarError as e:
        return e
    return None


def _find_files(parameters: RenderParameters) -> None:
    for name in ("audio", "image", "pose_video"):
        file = getattr(parameters, name)
        if file is not None and not exists(Path(file)):
            raise InputError(f"--{name} {file}: there is no such file; check its path")


def _resolved(folder: str, index: int) -> Path:
    try:
        return Path(os.path.realpath(folder))
    except (OSError, ValueError) as e:
        raise InputError(f"row {index + 1} of the table: out {folder[:80]} is no name of a folder") from e
