"""Weight files on disk: memory-mapped reading, checks of names and shapes, atomic writing.

A *part* is one network of a model directory; its weights are `<part>.safetensors`, or, above the shard
size, `<part>-00001-of-00003.safetensors` and so on.
"""

import pickle
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from liveavatar.errors import CheckpointError
from liveavatar.files import replacing

SHARD_BYTES = 32 * 2**20  # of files we write; below the size limits of code hosts
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors$")
_FLOATS = ("BF16", "F16", "F32", "F64")  # as safetensors names them
_NAMED = 4  # keys an error message lists
# Raised by torch's reader of archives for a file that is damaged
_DAMAGE = (
    *(RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError),
    *(MemoryError, ImportError, struct.error, zipfile.BadZipFile),
)


def part_files(directory: Path, stem: str) -> list[Path]:
    """List the weight files of a part, in order; empty when there are none.

    Raises:
        CheckpointError: when a shard is missing.
    """
    single = directory / f"{stem}.safetensors"
    if single.is_file():
        return [single]
    shards = sorted(p for p in directory.glob(f"{stem}-*.safetensors") if _SHARD.search(p.name))
    if not shards:
        return []
    total = int(_SHARD.search(shards[0].name)[2])  # type: ignore[index]
    names = [f"{stem}-{i:05d}-of-{total:05d}.safetensors" for i in range(1, total + 1)]
    missing = sorted(set(names) - {p.name for p in shards})
    if missing:
        raise CheckpointError(
            f"{directory} lacks {', '.join(missing)} of {total} files; fetch the model again, finished files are kept"
        )
    return [directory / name for name in names]


def shapes_of(files: list[Path]) -> dict[str, torch.Size]:
    """Read names and shapes from safetensors files, without the weights.

    Raises:
        CheckpointError: when a file is damaged, or holds integers or quantised weights.
    """
    shapes = {}
    for path in files:
        with _open(path) as f:
            for key in f.keys():  # noqa: SIM118 (not a dict)
                part = f.get_slice(key)
                _require_float(path, key, part.get_dtype(), part.get_dtype() in _FLOATS)
                shapes[key] = torch.Size(part.get_shape())
    return shapes


def _require_float(path: Path, key: str, dtype: object, fits: bool) -> None:
    if not fits:
        raise CheckpointError(
            f"{path}: {key} is {dtype}; weights are wanted in 16, 32 or 64 bit floats, so give the published file, "
            "not one that was quantised (--fp8 quantises while loading)"
        )


def read_tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Yield names and memory-mapped tensors of safetensors files, one at a time; CheckpointError for damage."""
    for path in files:
        with _open(path) as f:
            for key in f.keys():  # noqa: SIM118 (not a dict)
                try:
                    yield key, f.get_tensor(key)
                except (SafetensorError, RuntimeError, ValueError) as e:
                    raise CheckpointError(f"{path}: {key} cannot be read ({e}); fetch the file again") from e


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError) as e:
        raise CheckpointError(
            f"{path} is no readable safetensors file ({e}); it is damaged or cut short, fetch it again"
        ) from e


def load_archive(path: Path) -> Any:
    """Load the content of a torch archive; tensors are memory-mapped unless the file is in torch's form before 1.6.

    Code in the file is never run.

    Raises:
        ValueError: it is missing, damaged, or holds anything but plain values and tensors.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError as e:
        raise ValueError(e.strerror or "it cannot be read") from e
    except pickle.UnpicklingError as e:
        raise ValueError("it is damaged, or holds code") from e
    except _DAMAGE as e:
        raise ValueError(f"it is cut short or damaged: {type(e).__name__}") from e


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .pth file, memory-mapped. Code in the file is never run.

    Raises:
        CheckpointError: when the file is damaged, or holds anything but tensors.
    """
    try:
        loaded = load_archive(path)
    except ValueError as e:
        raise CheckpointError(f"{path} cannot be loaded safely ({e}); fetch the published file again") from e
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise CheckpointError(f"{path} holds no plain table of tensors; fetch the published file again")
    for key, value in loaded.items():
        _require_float(path, key, value.dtype, value.is_floating_point() and value.element_size() > 1)
    return loaded


def check_keys(source: str, shapes: Mapping[str, torch.Size], expected: Mapping[str, torch.Size]) -> None:
    """Compare names and shapes of weights with those of their network; `source` begins the message.

    Raises:
        CheckpointError: naming what is missing, unexpected, or of another shape.
    """
    wrong = [
        f"{k} {list(shapes[k])} instead of {list(s)}" for k, s in expected.items() if k in shapes and shapes[k] != s
    ]
    faults = (
        ("missing", [k for k in expected if k not in shapes]),
        ("unexpected", [k for k in shapes if k not in expected]),
        ("of another shape", wrong),
    )
    described = [f"{len(names)} {what}: {_listed(names)}" for what, names in faults if names]
    if described:
        raise CheckpointError(
            f"{source} does not fit its config.json: {'; '.join(described)}; "
            "fetch the model again, or correct the config"
        )


def _listed(names: list[str]) -> str:
    more = f", ... ({len(names) - _NAMED} more)" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def module_shapes(module: nn.Module) -> dict[str, torch.Size]:
    """Return names and shapes of a module's weights."""
    return {k: v.shape for k, v in module.state_dict().items()}


def write_part(directory: Path, stem: str, tensors: Mapping[str, Tensor], shard_bytes: int = SHARD_BYTES) -> list[Path]:
    """Write the weights of a part and delete its older files; each file appears whole or not at all.

    Returns:
        The files written.
    """
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, tensor in tensors.items():
        num_bytes = tensor.numel() * tensor.element_size()
        if size and size + num_bytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][key] = tensor.detach().cpu().contiguous().clone()
        size += num_bytes
    total = len(shards)
    names = [f"{stem}-{i:05d}-of-{total:05d}.safetensors" for i in range(1, total + 1)]
    names = [f"{stem}.safetensors"] if total == 1 else names
    for name, shard in zip(names, shards, strict=True):
        with replacing(directory / name) as temporary:
            save_file(shard, temporary, metadata={"format": "pt"})
    for old in directory.glob(f"{stem}*.safetensors"):
        is_of_part = old.name == f"{stem}.safetensors" or _SHARD.sub("", old.name) == stem
        if is_of_part and old.name not in names:
            old.unlink()
    return [directory / name for name in names]
