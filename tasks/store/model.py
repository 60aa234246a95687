"""Digests of a model directory, remembered so that asking again loads nothing."""

import hashlib
import os
from pathlib import Path
from typing import Any

from liveavatar import paths
from liveavatar.files import recall, remember


def digest_of(model_dir: Path) -> str:
    """Digest of a model's config and weights.

    Raises:
        CheckpointError: when the directory holds no model.
    """
    return str(_facts(model_dir)["sha256"])


def files_of(model_dir: Path) -> dict[str, str]:
    """Return the sha256 of each file that the model's digest covers, by its path in the directory.

    Raises:
        CheckpointError: when the directory holds no model.
    """
    return dict(_facts(model_dir)["files"])


def _facts(model_dir: Path) -> dict[str, Any]:
    """Read or compute digests, cached under name, size and time of all files, so that asking again loads nothing."""
    files = sorted(p for p in model_dir.rglob("*") if p.is_file())
    stamp = [[p.relative_to(model_dir).as_posix(), p.stat().st_size, p.stat().st_mtime_ns] for p in files]
    name = hashlib.sha256(os.fsencode(model_dir.resolve())).hexdigest()[:24]
    memo = paths.digests() / f"model-{name}.json"
    if known := recall(memo, stamp):
        return known["facts"]
    from liveavatar.checkpoints.checksums import file_sha256
    from liveavatar.checkpoints.load import WEIGHT_SUFFIXES, model_digest

    covered = (p for p in files if p.name == "config.json" or p.suffix in WEIGHT_SUFFIXES)
    facts = {
        "sha256": model_digest(model_dir),
        "files": {p.relative_to(model_dir).as_posix(): file_sha256(p) for p in covered},
    }
    remember(memo, stamp, {"facts": facts})
    return facts
