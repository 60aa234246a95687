"""Snapshots: everything a stream needs to go on, written atomically every few blocks.

A snapshot is one safetensors file, `block-000012-<sha256>.safetensors`: the stream's tensors, and in its header a
format version and the digest of the job it belongs to. The sha256 of the file is part of its name and is checked
before the file is used. The two newest are kept, so a damaged one costs a few blocks, never the render.
Rings may be as large as the memory of the host: they are written piece by piece, and no second copy is ever whole.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from liveavatar.errors import InputError
from liveavatar.files import remove_temporaries, sha256, sync

VERSION = "2"
KEEP = 2
_ALIGN = 8  # bytes, of the header
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3", torch.int64: "I64", torch.int32: "I32", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip

log = logging.getLogger(__name__)


def write_snapshot(folder: Path, block: int, job_digest: str, tensors: dict[str, Tensor]) -> Path:
    """Write the state before `block` and drop all but the newest two snapshots."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_temporaries(folder)
    unfinished, digest = folder / f".block-{block:06d}.tmp", hashlib.sha256()
    try:
        with unfinished.open("wb") as file:
            for piece in pieces(tensors, {"version": VERSION, "job": job_digest}):
                file.write(piece)
                digest.update(piece)
        sync(unfinished)
        path = folder / f"block-{block:06d}-{digest.hexdigest()}.safetensors"
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    for old in _newest_first(folder)[KEEP:]:
        old.unlink()
    return path


def pieces(tensors: dict[str, Tensor], metadata: dict[str, str]) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file: its header, then tensors one after the other, each along its first dimension."""
    header: dict[str, object] = {"__metadata__": metadata}
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))  # so that all are aligned
    at = 0
    for name in names:
        t = tensors[name]
        stop = at + t.numel() * t.itemsize
        header[name] = {"dtype": _DTYPES[t.dtype], "shape": list(t.shape), "data_offsets": [at, stop]}
        at = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGN)
    yield len(text).to_bytes(8, "little")
    yield text
    for name in names:
        t = tensors[name].detach()
        for part in t if t.ndim > 1 else [t]:
            rows: np.ndarray = part.cpu().contiguous().flatten().view(torch.uint8).numpy()
            yield rows.data


def read_snapshot(
    folder: Path, job_digest: str, reach: int | None = None, warn: Callable[[str], None] = log.warning
) -> dict[str, Tensor] | None:
    """Read the tensors of the newest whole snapshot; None when there is none.

    Args:
        folder: of the snapshots.
        job_digest: of the job.
        reach: newest usable block, as the blocks before it must be on disk; None for no limit.
        warn: receives one line for each snapshot that is passed over.

    Raises:
        InputError: when the newest whole one belongs to another job or another version.
    """
    ahead = False
    for path in _newest_first(folder):
        _, block, *digest = path.stem.split("-")
        if reach is not None and block.isdecimal() and int(block) > reach:
            if not ahead:
                warn(f"the newest snapshot is ahead of the {reach} whole blocks on disk; trying the one before")
            ahead = True
            continue
        try:
            if digest and digest[0] != sha256(path):
                warn(f"snapshot {path.name[:12]} is damaged (its digest does not match); trying the one before")
                continue
            with safe_open(path, framework="pt") as f:
                facts = f.metadata() or {}
                tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as e:
            warn(f"snapshot {path.name[:12]} is damaged ({e}); trying the one before")
            continue
        if facts.get("version") != VERSION or facts.get("job") != job_digest:
            raise InputError(
                f"the snapshots in {folder} belong to another job or version (job {facts.get('job', '?')[:12]}, "
                f"wanted {job_digest[:12]}); drop --resume, or resume with the options of that job"
            )
        return tensors
    return None


def drop_newer_snapshots(folder: Path, block: int) -> None:
    """Delete the snapshots after `block`: a resumed job passed over them and writes them again."""
    for path in _newest_first(folder):
        if int(path.stem.split("-")[1]) > block:
            path.unlink()


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("block-*.safetensors"), reverse=True)
