"""Files on disk: atomic writes, digests, JSON, and errors of a disk that is full or may not be written.

Nothing here knows what a file holds. A file that other processes read is always written with `write_atomically`
or, when a library does the writing, inside `replacing`.
"""

import codecs
import errno
import hashlib
import io
import json
import logging
import math
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from liveavatar.errors import CapacityError

log = logging.getLogger(__name__)

FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EROFS, errno.EPERM)
MISPLACED = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENXIO)  # a folder, pipe, socket or device lies there
GONE = (errno.ENOENT, *MISPLACED)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it over `path` when the block succeeds, delete it otherwise.

    The bytes reach the disk before the move, so that after a power cut `path` holds the old or the new content.
    The folder of `path` must exist.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(folder: Path) -> None:
    """Delete what a killed process left half-written in a folder that nobody else writes into."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file that appears whole or not at all; text is stored as UTF-8."""
    content = data.encode() if isinstance(data, str) else data
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """Write a JSON file that appears whole or not at all; the folder is made if it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(value, indent=indent, ensure_ascii=False))


def remember(path: Path, stamp: Any, facts: Mapping[str, Any]) -> None:
    """Keep facts for `recall`, with what they hold for; where they cannot be kept, they are found out again."""
    try:
        write_json(path, signed({"stamp": stamp, **facts}))
    except OSError as e:
        log.debug("%s cannot be written: %s", path, e)


def recall(path: Path, stamp: Any) -> dict[str, Any] | None:
    """Read the facts that were kept for a stamp (JSON-able); None where there are none, or damaged ones."""
    try:
        record = read_json(path)
        return record if record["stamp"] == stamp and is_intact(record) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def exists(path: Path) -> bool:
    """Tell if something has this name; no where the name is longer than any file's."""
    try:
        return path.exists()
    except OSError as e:
        if e.errno != errno.ENAMETOOLONG:
            raise
        return False


def newest_first(files: Iterable[Path]) -> list[Path]:
    """Sort files by their last change, the newest first; those that are gone meanwhile are left out."""
    dated: list[tuple[int, Path]] = []
    for path in files:
        with suppress(OSError):
            dated.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(dated, reverse=True)]


def open_regular(path: Path, mode: str = "rb") -> Any:
    """Open a regular file as `open` does, and nothing else: reading a pipe or a device could wait for ever.

    Raises:
        OSError: IsADirectoryError for a folder, ENXIO for a pipe, a socket or a device.
    """
    return open(path, mode, opener=_opened_regular)


def _opened_regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)  # opening a pipe waits for its other end otherwise
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise OSError(errno.ENXIO, "it is a pipe, a socket or a device", path)


def read_bytes(path: Path) -> bytes:
    """Read a regular file (`open_regular`)."""
    with open_regular(path) as file:
        content: bytes = file.read()
        return content


def read_text(path: Path) -> str:
    """Read a user's text: UTF-8, or UTF-16 with a byte-order mark, as shells and spreadsheets of Windows write it.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is in another encoding.
    """
    content = read_bytes(path)
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return io.TextIOWrapper(io.BytesIO(content), "utf-16" if wide else "utf-8-sig").read()
    except UnicodeDecodeError as e:
        raise ValueError("its text is not UTF-8: save it as UTF-8, `CSV UTF-8` in spreadsheets") from e


def read_json(path: Path) -> Any:
    """Read a JSON file in any of the encodings that JSON allows.

    Raises:
        OSError: it cannot be opened, or is no regular file.
        ValueError: it is no JSON, in another encoding, or nested too deeply.
    """
    return parse_json(read_bytes(path))


def parse_json(text: str | bytes, *, once: bool = False) -> Any:
    """Parse JSON; ValueError for everything that is wrong with it, with `once` also for a name twice in an object."""
    try:
        return json.loads(text, object_pairs_hook=_named_once if once else None)
    except RecursionError as e:
        raise ValueError("it is nested too deeply") from e


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    named = dict(pairs)
    if len(named) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it names {next(name for name in names if names.count(name) > 1)!r} twice")
    return named


def sync(path: Path) -> None:
    """Push a file or a folder from the page cache to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Push every file below a folder to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            sync(path)


def sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def has_digest(path: Path, digest: str) -> bool:
    """Tell whether a file is there and its bytes have a sha256."""
    try:
        return sha256(path) == digest
    except OSError as e:
        if e.errno not in GONE:
            raise
        return False


def content_digest(record: Mapping[str, Any]) -> str:
    """Return the sha256 of a record's content as JSON, in hex; its own entry `sha256` does not count."""
    content = {name: value for name, value in record.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def signed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Add the digest of its content to a record, so that a changed digit is noticed when it is read back."""
    return {**record, "sha256": content_digest(record)}


def is_intact(record: Mapping[str, Any]) -> bool:
    """Tell if a record of `signed` still matches its digest."""
    return bool(record["sha256"] == content_digest(record))


def disk_full(what: Path | str, reason: str | None = None, again: str = "run again") -> CapacityError:
    """Return the error of a disk without room, with the way out.

    Args:
        what: file or folder on that disk, or what was written there.
        reason: the words of the operating system, or of the program that wrote.
        again: what to do once there is room.
    """
    return CapacityError(f"{what}: the disk is full{f' ({reason})' if reason else ''}; free some space and {again}")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a folder that may not be written, or one where a file belongs, into a `CapacityError`.

    Other errors pass.

    Args:
        path: named in the message, unless the error itself names a file that may not be written. Files of the wrong
            kind are those at this path and below.
    """
    try:
        yield
    except OSError as e:
        if e.errno in FULL:
            raise disk_full(path, e.strerror) from e
        if e.errno in FORBIDDEN:
            raise CapacityError(
                f"{e.filename or path}: not writable ({e.strerror}); set LIVEAVATAR_HOME or --out to a folder that is"
            ) from e
        if e.errno in MISPLACED and (misplaced := _misplaced(path, e)):
            raise CapacityError(f"{misplaced}; move it away, or set LIVEAVATAR_HOME or --out to another folder") from e
        raise
    except RuntimeError as e:
        if "inline_container" not in str(e):  # torch.save's message when the disk took only part of a file
            raise
        raise disk_full(path) from e


def _misplaced(root: Path, error: OSError) -> str | None:
    """Say what lies at or below a path in place of a file or folder of ours; None for an error of something else."""
    root = Path(os.path.abspath(root))
    wants_folder = error.errno in (errno.ENOTDIR, errno.EEXIST)
    for name in filter(None, (error.filename, error.filename2)):
        place = Path(os.path.abspath(os.fsdecode(name)))
        above = (place, *place.parents) if wants_folder else (place,)
        found = next((path for path in above if os.path.exists(path)), None)
        if found is None or not (found.is_relative_to(root) or (wants_folder and root.is_relative_to(found))):
            continue
        if not (found.is_dir() if wants_folder else found.is_file()):
            kind = "a folder" if found.is_dir() else "a file" if found.is_file() else "a pipe, a socket or a device"
            return f"{found}: {kind} lies where {'a folder' if wants_folder else 'a file'} of ours belongs"
    return None


def require_disk(folder: Path, num_bytes: int, what: str, way_out: str = "choose another folder with --out") -> None:
    """Refuse work whose output would not fit.

    Args:
        folder: destination; it, or its nearest existing parent, tells the disk.
        num_bytes: that will be written.
        what: begins the message.
        way_out: ends it, beside freeing space.

    Raises:
        CapacityError: when less than `num_bytes` are free there.
    """
    existing = next(p for p in (folder.resolve(), *folder.resolve().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        raise CapacityError(
            f"{what} needs {num_bytes / 1e6:,.0f} MB on the disk of {folder}, {free / 1e6:,.0f} MB are free; "
            f"free some space, or {way_out}"
        )


def is_text(value: str) -> bool:
    """Tell if a string can be written as UTF-8; arguments and JSON may hold bytes and halves of characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def plain(value: Any) -> Any:
    """Convert a value to types that JSON knows: dataclasses, paths, arrays; NaN and infinity become None."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain({f.name: getattr(value, f.name) for f in fields(value)})
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy arrays and numbers, without importing numpy
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def rounded(value: Any, digits: int = 3) -> Any:
    """Round every float inside dictionaries, lists and tuples."""
    if isinstance(value, dict):
        return {k: rounded(v, digits) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v, digits) for v in value]
    return round(value, digits) if isinstance(value, float) else value
