"""Outcomes of a batch while it runs: `batch.json`, `batch.parquet` and a gallery, `batch.html`, that grow."""

import html
import json
import os
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any

from liveavatar.files import replacing, write_atomically
from tasks.run_folder import PAGE, VIDEO

Row = dict[str, Any]
PAUSE_SECONDS = 2.0  # between two writings, so that thousands of short jobs cost no more than a few
COLUMNS = ("job", "out", "status", "exit_code", "reason")
STYLE = """
:root { color-scheme: light dark; --rule: #8884; --good: #23855a; --warn: #c27803; --bad: #c8372d; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1180px; padding: 20px 14px 50px; }
ul { display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 12px; padding: 0; }
li { list-style: none; border: 1px solid var(--rule); border-radius: 10px; padding: 10px; overflow-wrap: anywhere; }
video { display: block; width: 100%; height: 240px; object-fit: contain; background: #000; border-radius: 6px; }
b { color: var(--bad); } b.passed { color: var(--good); } b.warned { color: var(--warn); }
"""


class BatchTable:
    """The rows of a batch that are known, and the files that show them."""

    def __init__(self, out: Path, names: list[str]) -> None:
        """Begin a table without rows.

        Args:
            out: folder of the files.
            names: of the jobs, in order.
        """
        self._out, self._names = out, names
        self._rows: dict[int, Row] = {}
        self._lock = threading.Lock()
        self._started, self._rendered, self._written = time.monotonic(), 0, 0.0
        self._first: float | None = None  # when the first job had ended
        out.mkdir(parents=True, exist_ok=True)

    def refuse(self, index: int, row: Row) -> None:
        """Add a job that is not rendered."""
        with self._lock:
            self._rows[index] = {"job": index, **row}

    def add(self, index: int, row: Row) -> str:
        """Add a job that has ended; return the line about it, with the time left."""
        with self._lock:
            self._rows[index] = {"job": index, **row}
            self._rendered += 1
            self._first = self._first or time.monotonic()
            if time.monotonic() - self._written > PAUSE_SECONDS:
                self._write()
            return self._line(index, row)

    def rows(self) -> list[Row]:
        """Write the files for the last time and return the rows, in the order of the jobs."""
        with self._lock:
            self._write()
            return self._sorted()

    def _sorted(self) -> list[Row]:
        return [self._rows[index] for index in sorted(self._rows)]

    def _line(self, index: int, row: Row) -> str:
        done, count = len(self._rows), len(self._names)
        told = f"job {index + 1}/{count} {self._names[index]}: {row['status']}"
        return f"{told}; {count - done} to go, {duration(self._pace() * (count - done))} left" if count > done else told

    def _pace(self) -> float:
        """Compute the seconds a job. The first one, during which the model loads, counts only while it is alone."""
        if self._rendered == 1 or self._first is None:
            return time.monotonic() - self._started
        return (time.monotonic() - self._first) / (self._rendered - 1)

    def _write(self) -> None:
        import pyarrow
        import pyarrow.parquet

        rows = self._sorted()
        write_atomically(self._out / "batch.json", json.dumps(rows, indent=2, ensure_ascii=False).encode())
        table = pyarrow.table({name: [row[name] for row in rows] for name in COLUMNS})
        with replacing(self._out / "batch.parquet") as unfinished:
            pyarrow.parquet.write_table(table, unfinished)
        write_atomically(self._out / "batch.html", self._gallery(rows).encode())
        self._written = time.monotonic()

    def _gallery(self, rows: list[Row]) -> str:
        title = f"{self._out.name}: {len(rows)} of {len(self._names)} jobs"
        again = "" if len(rows) == len(self._names) else '<meta http-equiv="refresh" content="10">'
        head = f'<!doctype html><html lang="en"><meta charset="utf-8">{again}<title>{html.escape(title)}</title>'
        head += f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style>'
        return "\n".join([head, f"<h1>{html.escape(title)}</h1><ul>", *map(self._item, rows), "</ul>"])

    def _item(self, row: Row) -> str:
        parts = [f'<b class="{row["status"]}">{row["status"]}</b> {html.escape(self._names[row["job"]])}']
        folder = Path(row["out"])
        if (folder / VIDEO).is_file() and row["status"] in ("passed", "warned", "failed"):
            place = urllib.parse.quote(os.path.relpath(folder, self._out))
            video = f'<video controls preload="none" poster="{place}/portrait.png" src="{place}/{VIDEO}"></video>'
            parts = [video, *parts, f'<a href="{place}/{PAGE}">report</a>']
        if row["reason"]:
            parts.append(f"<br>{html.escape(str(row['reason']))}")
        return f"<li>{' '.join(parts)}</li>"


def duration(seconds: float) -> str:
    """Describe a length of time in its largest unit: 45 s, 4 min, 2.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
