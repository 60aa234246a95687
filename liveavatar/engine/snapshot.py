"""Snapshots: everything a stream needs to go on, written atomically every few blocks.

A snapshot is one safetensors file, `block-000012.safetensors`: the stream's tensors, and in its header a
format version and the digest of the job it belongs to. The two newest are kept, so a damaged one costs
a few blocks, never the render.
"""

import logging
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from liveavatar.errors import InputError
from liveavatar.files import write_atomically

VERSION = "1"
KEEP = 2

log = logging.getLogger(__name__)


def write_snapshot(folder: Path, block: int, job_digest: str, tensors: dict[str, Tensor]) -> Path:
    """Write the state before `block` and drop all but the newest two snapshots."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"block-{block:06d}.safetensors"
    contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    write_atomically(path, save(contiguous, metadata={"version": VERSION, "job": job_digest}))
    for old in _newest_first(folder)[KEEP:]:
        old.unlink()
    return path


def read_snapshot(folder: Path, job_digest: str) -> dict[str, Tensor] | None:
    """Tensors of the newest readable snapshot, or None when there is none.

    Raises:
        InputError: when the newest readable one belongs to another job or another version.
    """
    for path in _newest_first(folder):
        try:
            with safe_open(path, framework="pt") as f:
                facts = f.metadata()
                tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as e:
            log.warning("snapshot %s is damaged (%s); trying the one before", path.name, e)
            continue
        if facts.get("version") != VERSION or facts.get("job") != job_digest:
            raise InputError(
                f"the snapshots in {folder} belong to another job or version (job {facts.get('job', '?')[:12]}, "
                f"wanted {job_digest[:12]}); drop --resume, or resume with the options of that job"
            )
        return tensors
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("block-*.safetensors"), reverse=True)
