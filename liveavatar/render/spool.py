"""The spool of a render: latents and timings of finished blocks on disk, and the record of a finished job.

`latents.bin` holds the latents of every block in order (float32 little-endian), `blocks.jsonl` one row of timings a
block, `finished.json` the result of a job that came to its end. Nothing here knows the engine, the film or snapshots.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np

from liveavatar.files import sha256, write_atomically
from liveavatar.render.timings import BlockRow

LATENTS = "latents.bin"
ROWS = "blocks.jsonl"
FINISHED = "finished.json"


class Spool:
    """Latents [C, 3, h, w] and timings of a job's blocks, appended in order."""

    def __init__(self, folder: Path, block_shape: tuple[int, ...]) -> None:
        self.latents_path, self.rows_path = folder / LATENTS, folder / ROWS
        self.block_shape = block_shape
        self.block_bytes = 4 * int(np.prod(block_shape))
        self._digest = hashlib.sha256()
        self._latents: BinaryIO | None = None
        self._rows: TextIO | None = None

    @property
    def sha256(self) -> str:
        """Digest of all latents in order, hex."""
        return self._digest.hexdigest()

    def clear(self) -> None:
        """Delete what an earlier run left."""
        for path in (self.latents_path, self.rows_path, self.latents_path.with_name(FINISHED)):
            path.unlink(missing_ok=True)

    def num_blocks(self) -> int:
        """Count the blocks whose latents and timings are both on disk."""
        rows = len(self.rows_path.read_bytes().splitlines()) if self.rows_path.exists() else 0
        size = self.latents_path.stat().st_size if self.latents_path.exists() else 0
        return min(rows, size // self.block_bytes)

    def truncate(self, position: int) -> None:
        """Keep the blocks before `position`, which must be on disk, and digest them."""
        os.truncate(self.latents_path, position * self.block_bytes)
        rows = self.rows_path.read_bytes().splitlines()[:position]
        self.rows_path.write_bytes(b"".join(row + b"\n" for row in rows))
        for latents in self._blocks():
            self._digest.update(latents)

    @contextmanager
    def appending(self) -> Iterator["Spool"]:
        """Open the files for `append` and `sync`."""
        with self.latents_path.open("ab") as self._latents, self.rows_path.open("a") as self._rows:
            yield self

    def append(self, latents: np.ndarray, row: BlockRow) -> None:
        """Write one block."""
        assert self._latents is not None
        assert self._rows is not None
        data = latents.astype("<f4", copy=False).tobytes()
        self._digest.update(data)
        self._latents.write(data)
        self._rows.write(json.dumps(asdict(row)) + "\n")

    def sync(self) -> None:
        """Push the latents to the disk; the rows at least to the system."""
        assert self._latents is not None
        assert self._rows is not None
        self._rows.flush()
        self._latents.flush()
        os.fsync(self._latents.fileno())

    def rows(self) -> list[BlockRow]:
        """Read the timings of all blocks."""
        return [BlockRow(**json.loads(row)) for row in self.rows_path.read_bytes().splitlines()]

    def latents(self) -> Iterator[np.ndarray]:
        """Read the latents [1, C, 3, h, w] of one block after another."""
        for data in self._blocks():
            yield np.frombuffer(data, "<f4").reshape(1, *self.block_shape).astype(np.float32)

    def _blocks(self) -> Iterator[bytes]:
        with self.latents_path.open("rb") as spool:
            while data := spool.read(self.block_bytes):
                yield data


def write_finished(folder: Path, job_digest: str, facts: dict[str, Any]) -> None:
    """Record the result of a finished job: its caller may be gone before it hears of it."""
    write_atomically(folder / FINISHED, json.dumps({"job": job_digest, **facts}, default=str))


def read_finished(folder: Path, job_digest: str) -> dict[str, Any] | None:
    """Read the result of a finished job; None unless it is this job's and its latents are whole."""
    try:
        facts: dict[str, Any] = json.loads((folder / FINISHED).read_text())
        whole = facts["latents_sha256"] == sha256(folder / LATENTS)
        return facts if facts.pop("job") == job_digest and whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
