"""Tables of jobs: csv, parquet or jsonl, one job a row, a column for each option of a render."""

import csv
import json
from pathlib import Path
from typing import Any

from liveavatar.errors import InputError

FORMATS = (".csv", ".parquet", ".jsonl")
FILES = ("audio", "image", "model", "pose_video")  # columns that may be paths relative to the manifest
Job = dict[str, Any]


def read_manifest(manifest: Path, defaults: Job) -> list[Job]:
    """Read the jobs of a manifest, one a row; empty cells take the defaults.

    Raises:
        InputError: missing, empty, of an unknown format, or not readable as what its name says.
    """
    if not manifest.is_file():
        raise InputError(f"manifest {manifest} is not there; give a table of jobs ({', '.join(FORMATS)})")
    if manifest.suffix not in FORMATS:
        raise InputError(
            f"manifest {manifest}: {manifest.suffix or 'no suffix'} is no format; use {', '.join(FORMATS)}"
        )
    try:
        rows = _rows(manifest)
    except (ValueError, OSError, csv.Error) as e:
        raise InputError(f"manifest {manifest} cannot be read as {manifest.suffix[1:]} ({e}); repair it") from e
    if not rows:
        raise InputError(f"manifest {manifest} holds no job; add a row with audio, image and prompt")
    return [_resolved({**defaults, **row}, manifest.parent) for row in rows]


def _rows(manifest: Path) -> list[Job]:
    if manifest.suffix == ".parquet":
        import pandas as pd

        table = pd.read_parquet(manifest)
        raw = [{k: v for k, v in row.items() if pd.notna(v)} for row in table.to_dict("records")]
    elif manifest.suffix == ".jsonl":
        raw = [json.loads(line) for line in manifest.read_text().splitlines() if line.strip()]
        if not all(isinstance(row, dict) for row in raw):
            raise ValueError("a line is no JSON object")
    else:
        with manifest.open(newline="") as file:
            raw = list(csv.DictReader(file, strict=True))
    return [{str(k).strip(): v for k, v in row.items() if k and v not in (None, "")} for row in raw]


def _resolved(job: Job, folder: Path) -> Job:
    """Resolve paths that exist beside the manifest to those files."""
    beside = {k: str(folder / str(job[k])) for k in FILES if job.get(k) and (folder / str(job[k])).exists()}
    return {**job, **beside}
