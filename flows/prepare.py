"""Fetch, verify and convert weights."""

import json
from pathlib import Path
from typing import Any

from flows.serving import environment
from flows.terminal import say
from liveavatar import paths
from liveavatar.checkpoints import checksums, hub
from liveavatar.checkpoints.directory import read_config, resolve_model_dir
from liveavatar.errors import CheckpointError, InputError


def prepare(preset: str = "live-avatar-14b") -> dict[str, Any]:
    """Fetch a model that is not here, then verify it.

    Raises:
        InputError: the preset is not published, or its hub does not answer.
        CapacityError: the disk is too small.
    """
    if preset in hub.PUBLISHED:
        fetch_model(preset)
    return verify_model(resolve_model_dir(preset))


def fetch(preset: str) -> int:
    """Run `liveavatar models fetch`."""
    report = prepare(preset)
    say(f"{preset}: {len(report['files'])} files verified in {report['folder']}")
    return 0


def verify(preset: str, as_json: bool) -> int:
    """Run `liveavatar models verify`."""
    report = verify_model(resolve_model_dir(preset), again=True)
    if as_json:
        say(json.dumps(report, indent=2))
    else:
        for name, digest in report["files"].items():
            say(f"{digest}  {name}")
        say(f"{report['name']}: names and shapes of {report['tensors']} tensors fit; model digest {report['sha256']}")
    return 0


def fetch_model(preset: str) -> Path:
    """Download a published model: skip whole files, resume partial ones, compare all with their checksums.

    Raises:
        InputError: the hub does not answer, or does not give the files.
        CapacityError: the disk is too small.
        CheckpointError: a file arrived damaged.
    """
    environment.prepare()
    target = paths.models_home() / preset
    try:
        hub.fetch(target, hub.PUBLISHED[preset], hub.HuggingFace())
    except CheckpointError:
        raise
    except InputError as e:
        raise InputError(
            f"models fetch {preset}: the model hub gave no files ({e}); check the network or HF_ENDPOINT, "
            f"or copy the published files to {target}"
        ) from e
    return target


def verify_model(model_dir: Path, *, again: bool = False) -> dict[str, Any]:
    """Check that every weight file of a model is as published and readable, and that names and shapes fit its config.

    Args:
        model_dir: the model directory.
        again: read files whose digest is remembered, too.

    Returns:
        `name`, `folder`, `sha256` of the model, `files` (name -> sha256), `tensors` (their number).

    Raises:
        CheckpointError: anything is missing, damaged or of another shape.
    """
    from liveavatar.checkpoints import released
    from liveavatar.checkpoints.load import build_part, check_model, load_model, model_digest
    from liveavatar.checkpoints.weight_files import module_shapes

    checksums.verify(model_dir, again=again)
    model = read_config(model_dir)
    parts = ("dit", "vae", "text") if model.text.resident else ("dit", "vae")
    check_model(model_dir, parts)
    if released.is_released(model_dir):
        # Too large to load for a look: names and shapes are checked, and every byte is read for the digest.
        released.text_files(model_dir)
    else:
        load_model(model_dir, "cpu", _stored_dtype(), parts)
    tensors = sum(len(module_shapes(build_part(model, part))) for part in parts)
    files = sorted(p for p in model_dir.rglob("*") if p.suffix in (".safetensors", ".pth", ".json") and p.is_file())
    return {
        "name": model.name,
        "folder": str(model_dir),
        "sha256": model_digest(model_dir),
        "files": {p.relative_to(model_dir).as_posix(): checksums.file_sha256(p) for p in files},
        "tensors": tensors,
    }


def _stored_dtype() -> Any:
    import torch

    return torch.bfloat16  # half the memory of float32; only names and shapes matter here
