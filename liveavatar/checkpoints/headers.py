"""Check of a model directory before this process reads it: config and headers of weights, in a worker process.

A crash, a hang or a bomb in a file of the user's is a refusal there. What passes is memory-mapped by this process
afterwards. The embedded model is not checked, and a directory that has not changed is not checked again.
"""

import hashlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from liveavatar import paths
from liveavatar.checkpoints.checksums import require_intact
from liveavatar.checkpoints.directory import read_config, resolve_model_dir
from liveavatar.errors import CheckpointError
from liveavatar.files import recall, remember
from liveavatar.isolation.caller import MEMORY_BYTES, isolated

MAX_FILES = 20_000  # below a model directory
MAX_CONFIG_BYTES = 10_000_000
MAX_HEADER_BYTES = 100_000_000  # of a safetensors file, which is safetensors' own limit
LENGTH_BYTES = 8  # of the header's length, in front of it
WEIGHTS, ARCHIVES = ".safetensors", ".pth"


def readable_model_dir(model: str) -> Path:
    """Turn the value of `--model` into a model directory whose files can be read without harm.

    Raises:
        InputError: there is no such directory, or a file crashes or hangs its reader.
        CheckpointError: a file is damaged, or larger than any that a model has.
    """
    model_dir = resolve_model_dir(model)
    if model_dir.resolve() != paths.MINI_DIR:
        _check_once("headers", check_files, model_dir)
    return model_dir


def complete_model_dir(model: str) -> Path:
    """Turn the value of `--model` into a model directory whose weights are intact and fit its config.

    One in the released layout is checked when it is loaded.

    Raises:
        InputError: for the reasons of `readable_model_dir`.
        CheckpointError: for its reasons; a weight is missing, too many, or of another shape; a file has other bytes
            than the list beside it says.
    """
    from liveavatar.checkpoints.released import is_released

    model_dir = readable_model_dir(model)
    require_intact(model_dir)
    if model_dir.resolve() != paths.MINI_DIR and not is_released(model_dir):
        _check_once("whole", check_weights, model_dir)
    return model_dir


def _check_once(kind: str, check: Callable[..., None], model_dir: Path) -> None:
    """Run a check in a worker, unless the directory has passed it and has not changed since."""
    files = list(_files(model_dir))
    stamp = [[path.relative_to(model_dir).as_posix(), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    name = hashlib.sha256(str(model_dir.resolve()).encode(errors="surrogateescape")).hexdigest()[:24]
    memo = paths.digests() / f"{kind}-{name}.json"
    if recall(memo, stamp) is not None:
        return
    mapped = sum(path.stat().st_size for path in files if path.suffix == ARCHIVES)  # counts as memory, is not read
    isolated(check, model_dir, memory_bytes=MEMORY_BYTES + mapped, beats=True)
    remember(memo, stamp, {})


def check_files(model_dir: Path, *, on_progress: Callable[[], None]) -> None:
    """Read the config and the header of each weight file; runs in a worker.

    Raises:
        CheckpointError: one is damaged or too large.
    """
    from liveavatar.checkpoints.weight_files import read_pickle, shapes_of

    def check_header(path: Path) -> None:
        _check_header(path)
        shapes_of([path])

    readers: dict[str, Callable[[Path], Any]] = {WEIGHTS: check_header, ARCHIVES: read_pickle, ".json": _check_config}
    for path in sorted(_files(model_dir), key=lambda path: path.suffix):
        on_progress()
        readers[path.suffix](path)
    read_config(model_dir)


def check_weights(model_dir: Path, *, on_progress: Callable[[], None]) -> None:
    """Compare the weights with the config, by names and shapes; runs in a worker.

    Raises:
        CheckpointError: they do not fit.
    """
    from liveavatar.checkpoints.load import PARTS, check_model

    for part in PARTS:
        on_progress()
        check_model(model_dir, [part])


def _files(model_dir: Path) -> Iterator[Path]:
    """Iterate over configs and weight files below a directory."""
    found = list(islice(model_dir.rglob("*"), MAX_FILES + 1))
    if len(found) > MAX_FILES:
        raise CheckpointError(f"{model_dir} holds over {MAX_FILES} files; give the directory of one model")
    for path in sorted(found):
        if (path.suffix in (WEIGHTS, ARCHIVES) or path.name.endswith("config.json")) and path.is_file():
            yield path


def _check_config(path: Path) -> None:
    size = path.stat().st_size
    if size > MAX_CONFIG_BYTES:
        raise CheckpointError(f"{path} has {size / 1e6:.0f} MB, and is no config of a model; fetch the model again")


def _check_header(path: Path) -> None:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    if length > min(MAX_HEADER_BYTES, path.stat().st_size):
        raise CheckpointError(
            f"{path} is no readable safetensors file (its header would have {length / 1e6:,.0f} MB); it is damaged or "
            "cut short, fetch it again"
        )
