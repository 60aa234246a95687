"""Tables of jobs: csv, parquet or jsonl, one job a row, a column for each option of a render."""

import csv
import io
from collections import Counter
from pathlib import Path
from typing import Any

from liveavatar.errors import InputError
from liveavatar.files import exists, is_text, parse_json, read_text
from liveavatar.pose.csv_text import read_csv_text

FORMATS = (".csv", ".parquet", ".jsonl")
FILES = ("audio", "image", "model", "pose_video", "limits")  # columns that may be paths relative to the manifest
MAX_BYTES, MAX_ROWS = 50_000_000, 100_000  # of a table
Job = dict[str, Any]


def read_manifest(manifest: Path, defaults: Job) -> list[Job]:
    """Read the jobs of a manifest, one a row; empty cells take the defaults.

    Raises:
        InputError: missing, empty, of an unknown format, or not readable as what its name says.
    """
    if not (exists(manifest) and manifest.is_file()):
        raise InputError(f"manifest {manifest} is not there; give a table of jobs ({', '.join(FORMATS)})")
    if manifest.stat().st_size > MAX_BYTES:
        raise InputError(f"manifest {manifest} is larger than {MAX_BYTES // 10**6} MB; split it")
    if manifest.suffix not in FORMATS:
        raise InputError(
            f"manifest {manifest}: {manifest.suffix or 'no suffix'} is no format; use {', '.join(FORMATS)}"
        )
    try:
        rows = _rows(manifest)
        _refuse_null(rows)
    except (ValueError, OSError, csv.Error) as e:
        raise InputError(f"manifest {manifest} cannot be read as {manifest.suffix[1:]} ({e}); repair it") from e
    if not rows:
        raise InputError(f"manifest {manifest} holds no job; add a row with audio, image and prompt")
    if len(rows) > MAX_ROWS:
        raise InputError(f"manifest {manifest} has more than {MAX_ROWS} rows; split it")
    return [_resolved({**defaults, **row}, manifest.parent) for row in rows]


def _rows(manifest: Path) -> list[Job]:
    if manifest.suffix == ".parquet":
        raw = _parquet_rows(manifest)
    elif manifest.suffix == ".jsonl":
        raw = _json_rows(manifest)
    else:
        raw = _csv_rows(manifest)
    return [{str(k).strip(): v for k, v in row.items() if k and v not in (None, "")} for row in raw]


def _json_rows(manifest: Path) -> list[Job]:
    """Read one JSON object a line.

    Raises:
        ValueError: a line is none, or names a value twice.
    """
    rows: list[Job] = []
    for number, line in enumerate(read_text(manifest).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line, once=True)
        except ValueError as e:
            raise ValueError(f"line {number}: {e}") from e
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is no JSON object")
        rows.append(row)
    return rows


def _refuse_twice(names: list[str]) -> None:
    """Refuse a table in which one of two columns of a name would be lost."""
    twice = next((name for name, count in Counter(names).items() if name and count > 1), None)
    if twice:
        raise ValueError(f"the header names the column {twice} twice")


def _refuse_null(rows: list[Job]) -> None:
    """Refuse characters that no file name and no prompt has."""
    for number, row in enumerate(rows, 1):
        column = next((name for name, value in row.items() if "\0" in str(value)), None)
        if column is not None:
            raise ValueError(f"row {number} holds a null character in the column {column}")
        column = next((name for name, value in row.items() if not is_text(f"{name}{value}")), None)
        if column is not None:
            raise ValueError(f"row {number} holds half a character (a lone surrogate) in the column {column!a}")


def _parquet_rows(manifest: Path) -> list[Job]:
    """Read a parquet file without what pandas notes in it.

    Raises:
        ValueError: it is damaged.
    """
    import pyarrow.parquet
    from pyarrow.lib import ArrowException

    try:
        file = pyarrow.parquet.ParquetFile(manifest)
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        if file.metadata.num_rows > MAX_ROWS or sum(group.total_byte_size for group in groups) > MAX_BYTES:
            raise ValueError(f"it unpacks to more than {MAX_ROWS} rows or {MAX_BYTES // 10**6} MB: split it")
        _refuse_twice(file.schema_arrow.names)
        rows = file.read().to_pylist()
    except (ArrowException, ArithmeticError, LookupError, TypeError) as e:
        raise ValueError(f"it is damaged: {e}") from e
    index = "__index_level_"  # columns that pandas adds
    return [{k: v for k, v in row.items() if v == v and not k.startswith(index)} for row in rows]


def _csv_rows(manifest: Path) -> list[Job]:
    """Read a csv; cells are divided by commas, semicolons or tabs.

    Raises:
        ValueError: a row holds more cells than the header, or the header names a column twice.
    """
    text, delimiter = read_csv_text(manifest)
    lines = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if row]
    header, *rows = lines or [[]]
    names = [name.strip() for name in header]
    _refuse_twice(names)
    for number, row in enumerate(rows, 1):
        unnamed = [
            cell for cell, name in zip(row, [*names, *[""] * len(row)], strict=False) if cell.strip() and not name
        ]
        if unnamed and len(row) <= len(names):
            raise ValueError(f"the column of {unnamed[0][:40]!r} in row {number} has no name in the header")
        if unnamed:
            raise ValueError(
                f"row {number} has {len(row)} cells, the header {len(names)}; "
                f"put text that holds {'commas' if delimiter == ',' else repr(delimiter)} between double quotes"
            )
    return [dict(zip(names, row, strict=False)) for row in rows]


def _resolved(job: Job, folder: Path) -> Job:
    """Resolve paths that exist beside the manifest to those files."""
    beside = {k: str(folder / str(job[k])) for k in FILES if job.get(k) and exists(folder / str(job[k]))}
    return {**job, **beside}
