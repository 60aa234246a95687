"""Digests of a model's files: the list beside them, `checksums.json`, and the comparison with it.

`models fetch` lists files as their hub does, `save_model` those that it writes. A model directory without a list is
taken as it is. Loads no torch.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from liveavatar import paths
from liveavatar.errors import CheckpointError
from liveavatar.files import read_json, recall, remember, sha256, write_atomically

log = logging.getLogger(__name__)

CHECKSUMS, CONFIG = "checksums.json", "config.json"
LARGE_BYTES = 5e9  # of a file whose reading has a line in the log
_NAMED = 4  # faults that an error message lists


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedFile:
    """A file as its repository, or the list beside it, describes it."""

    path: str
    size: int  # bytes
    sha256: str | None  # None for small files, which a hub does not digest


def write_list(model_dir: Path, files: Mapping[str, ListedFile]) -> None:
    """Write the list of a model directory's files, by their paths below it."""
    listing = {name: asdict(file) for name, file in sorted(files.items())}
    write_atomically(model_dir / CHECKSUMS, json.dumps(listing, indent=1) + "\n")


def list_written(model_dir: Path, files: Iterable[Path]) -> None:
    """Put files that were just written on the list; what it says of others that are still there stays."""
    listing = {name: file for name, file in read_list(model_dir).items() if (model_dir / name).is_file()}
    for path in files:
        name = path.relative_to(model_dir).as_posix()
        listing[name] = ListedFile(path=name, size=path.stat().st_size, sha256=sha256(path))
    write_list(model_dir, listing)


def read_list(model_dir: Path) -> dict[str, ListedFile]:
    """Read the list of a model directory's files; empty where there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    path = model_dir / CHECKSUMS
    try:
        return {name: ListedFile(**entry) for name, entry in read_json(path).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as e:
        raise CheckpointError(f"{path} is damaged ({e}); {way_out(model_dir)}") from e


def verify(model_dir: Path, *, again: bool = False) -> list[Path]:
    """Compare all files of the list with it; without one, nothing is compared.

    Args:
        model_dir: the model directory.
        again: read files whose digest is remembered, too.

    Returns:
        The files that were compared.

    Raises:
        CheckpointError: naming files that are missing, of another size, or of another digest.
    """
    listing = read_list(model_dir)
    _refuse(model_dir, _faults(model_dir, listing, again=again))
    return [model_dir / name for name in listing]


def require_intact(model_dir: Path, *, again: bool = False) -> None:
    """Refuse a model one of whose weight files has other bytes than its list says.

    Files that are missing are left to whoever needs them, and so is a config that was changed, except the embedded
    model's. Digests are remembered, so a directory that has not changed costs a few small files.

    Args:
        model_dir: the model directory.
        again: read files whose digest is remembered, too.

    Raises:
        CheckpointError: naming the files.
    """
    listing = {
        name: file
        for name, file in read_list(model_dir).items()
        if file.sha256 and (model_dir / name).is_file() and (Path(name).name != CONFIG or _is_embedded(model_dir))
    }
    _refuse(model_dir, _faults(model_dir, listing, again=again))


def way_out(model_dir: Path) -> str:
    """Say how damaged files of a model directory are put right."""
    if _is_embedded(model_dir) and paths.is_checkout():
        place = paths.MINI_DIR.relative_to(paths.REPO_ROOT).as_posix()
        return f"restore the embedded model: `git checkout -- {place}` in {paths.REPO_ROOT}"
    if _is_embedded(model_dir):
        return "restore the embedded model: `pip install --force-reinstall --no-deps` with the wheel of liveavatar"
    again = "copy it again"
    if model_dir.parent == paths.models_home():
        again = f"run `liveavatar models fetch {model_dir.name}`, whole files are kept"
    return f"delete what is damaged and {again}; if you changed it yourself, take it off {CHECKSUMS}"


def _is_embedded(model_dir: Path) -> bool:
    return model_dir.resolve() == paths.MINI_DIR


def _faults(model_dir: Path, listing: Mapping[str, ListedFile], *, again: bool) -> Iterator[str]:
    for name, listed in listing.items():
        file = model_dir / name
        if not file.is_file():
            yield f"{name} is missing"
        elif file.stat().st_size != listed.size:
            yield f"{name} has {file.stat().st_size} bytes instead of {listed.size}"
        elif listed.sha256 and file_sha256(file, again=again) != listed.sha256:
            yield f"{name} is damaged: it has another content than {CHECKSUMS} says"


def _refuse(model_dir: Path, faults: Iterable[str]) -> None:
    found = list(faults)
    if found:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise CheckpointError(f"{model_dir}: {'; '.join(found[:_NAMED])}{more}; {way_out(model_dir)}")


def file_sha256(path: Path, *, again: bool = False) -> str:
    """Return the sha256 of a file, remembered below `paths.digests()` until the file is written.

    Args:
        path: of the file.
        again: read it even if its digest is remembered.
    """
    stat = path.stat()
    memo = paths.digests() / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:24]}.json"
    stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]  # the last one nobody can set
    known = None if again else recall(memo, stamp)
    if known is not None:
        return str(known["digest"])
    if stat.st_size > LARGE_BYTES:
        log.info("reads the %.0f GB of %s for their digest", stat.st_size / 1e9, path)
    digest = sha256(path)
    remember(memo, stamp, {"digest": digest})
    return digest
