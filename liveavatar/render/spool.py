"""The spool of a render: latents and timings of finished blocks on disk, and the record of a finished job.

`latents.bin` holds the latents of every block in order (float32 little-endian), `blocks.jsonl` one row of timings a
block with the sha256 of its latents and timings, `finished.json` the result of a job that came to its end with the
sha256 of every file. Digests are checked before a file is used. Nothing here knows the engine, the video or snapshots.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np

from liveavatar.files import (
    is_intact,
    open_regular,
    parse_json,
    read_bytes,
    read_json,
    sha256,
    signed,
    write_atomically,
)
from liveavatar.render.timings import BlockRow

LATENTS = "latents.bin"
ROWS = "blocks.jsonl"
FINISHED = "finished.json"
FINISHED_VERSION = 2

log = logging.getLogger(__name__)


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

    def num_blocks(self, warn: Callable[[str], None] = log.warning) -> int:
        """Count the leading blocks whose latents and timings are both on disk and match their digests.

        Args:
            warn: receives one line when a block does not match.
        """
        if not (self.rows_path.exists() and self.latents_path.exists()):
            return 0
        whole = 0
        for line, latents in zip(read_bytes(self.rows_path).splitlines(), self._blocks(), strict=False):
            if len(latents) < self.block_bytes:
                break
            if not _matches(line, latents):
                warn(f"block {whole} in {self.latents_path.name} or {self.rows_path.name} is damaged")
                break
            whole += 1
        return whole

    def truncate(self, position: int) -> None:
        """Keep the blocks before `position`, which must be on disk, and digest them."""
        os.truncate(self.latents_path, position * self.block_bytes)
        self._digest = hashlib.sha256()
        rows = read_bytes(self.rows_path).splitlines()[:position]
        self.rows_path.write_bytes(b"".join(row + b"\n" for row in rows))
        for latents in self._blocks():
            self._digest.update(latents)

    @contextmanager
    def appending(self) -> Iterator["Spool"]:
        """Open the files for `append` and `sync`."""
        with open_regular(self.latents_path, "ab") as self._latents, open_regular(self.rows_path, "a") as self._rows:
            yield self

    def append(self, latents: np.ndarray, row: BlockRow) -> None:
        """Write one block."""
        assert self._latents is not None
        assert self._rows is not None
        data = latents.astype("<f4", copy=False).tobytes()
        self._digest.update(data)
        self._latents.write(data)
        self._rows.write(json.dumps({**asdict(row), "sha256": _block_digest(data, asdict(row))}) + "\n")

    def sync(self) -> None:
        """Push the latents to the disk; the rows at least to the system."""
        assert self._latents is not None
        assert self._rows is not None
        self._rows.flush()
        self._latents.flush()
        os.fsync(self._latents.fileno())

    def rows(self) -> list[BlockRow]:
        """Read the timings of all blocks."""
        rows = [json.loads(row) for row in read_bytes(self.rows_path).splitlines()]
        return [BlockRow(**{name: value for name, value in row.items() if name != "sha256"}) for row in rows]

    def latents(self) -> Iterator[np.ndarray]:
        """Read the latents [1, C, 3, h, w] of one block after another."""
        for data in self._blocks():
            yield np.frombuffer(data, "<f4").reshape(1, *self.block_shape).astype(np.float32)

    def _blocks(self) -> Iterator[bytes]:
        with open_regular(self.latents_path) as spool:
            while data := spool.read(self.block_bytes):
                yield data


def _block_digest(latents: bytes, row: dict[str, Any]) -> str:
    digest = hashlib.sha256(latents)
    digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _matches(line: bytes, latents: bytes) -> bool:
    """Tell if a line of `blocks.jsonl` holds the digest of its latents and timings."""
    try:
        row = parse_json(line)
        return bool(row.pop("sha256") == _block_digest(latents, row))
    except (ValueError, KeyError, AttributeError, TypeError):
        return False


def write_finished(folder: Path, job_digest: str, facts: dict[str, Any], products: Iterable[Path] = ()) -> None:
    """Record the result of a finished job, for a caller that was lost before it got the result.

    Args:
        folder: work folder of the job.
        job_digest: of the job.
        facts: the result.
        products: files below `folder` that belong to the result.
    """
    files = {path.relative_to(folder).as_posix(): sha256(path) for path in (folder / LATENTS, *products)}
    content = {"version": FINISHED_VERSION, "job": job_digest, "files": files, "facts": facts}
    content = json.loads(json.dumps(content, default=str))
    write_atomically(folder / FINISHED, json.dumps(signed(content)))


def read_finished(folder: Path, job_digest: str, warn: Callable[[str], None] = log.warning) -> dict[str, Any] | None:
    """Read the result of a finished job; None unless it is this job's and all its files are whole.

    Args:
        folder: work folder of the job.
        job_digest: of the job.
        warn: receives one line when the result is damaged.
    """
    try:
        content = read_json(folder / FINISHED)
        damaged = not is_intact(content)
        version, job, files, facts = (content[name] for name in ("version", "job", "files", "facts"))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        damaged = True
    if damaged:
        warn(f"{FINISHED}, the record of the finished render, is damaged; the render is made again")
        return None
    if (version, job) != (FINISHED_VERSION, job_digest):
        return None
    for name, digest in files.items():
        if not _is_whole(folder / name, digest):
            warn(f"{name} of the finished render does not match its digest; the render is made again")
            return None
    return dict(facts)


def _is_whole(path: Path, digest: str) -> bool:
    try:
        return sha256(path) == digest
    except OSError:
        return False
