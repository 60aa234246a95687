"""Content-addressed artefact store: what a stage made, filed under the digest of all that it depends on.

An *entry* is a folder of files plus a small JSON record, filed under *kind* (the stage) and *key* (sha256 over
the bytes of the stage's inputs, its parameters, its model and its code). An entry appears whole or not at all:
it is built beside the store, pushed to the disk and renamed into place. Every read checks the sha256 of each file
and of the record itself; a damaged entry is dropped and made again. A lock per key keeps two runs from making the
same thing twice. Entries that a job under way has read or made are dropped by nobody else (`Store.using`).

Nothing here knows what the stages do.
"""

import glob
import json
import logging
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from liveavatar import paths
from liveavatar.errors import CapacityError
from liveavatar.files import GONE, disk_errors, has_digest, is_intact, read_json, sha256, signed, sync, write_atomically
from tasks.store.remote import RemoteStore, second_tier

log = logging.getLogger(__name__)

RECORD = "entry.json"
NOTICE_SECONDS = 1.0  # a shorter wait for another run is not worth a line
CALL_SECONDS = 0.5  # between two calls of `while_waiting`
CLOCK_SECONDS = 60.0  # that the clocks of a file system and of its users may differ

Values = dict[str, Any]  # JSON-serialisable facts about an entry


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One finished artefact."""

    kind: str
    key: str
    folder: Path
    files: dict[str, str]  # name -> sha256
    values: Values = field(default_factory=dict)
    made_from: Values = field(default_factory=dict)  # parts of the key
    hit: bool = False  # True when it was there already

    def path(self, name: str) -> Path:
        """Return the path of one of the entry's files."""
        return self.folder / name


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredEntry:
    """Size and age of an entry on the disk."""

    kind: str
    key: str
    folder: Path
    size: int  # bytes
    used: float  # s since 1970, of the last use
    in_use: bool  # by a job under way


class Store:
    """The artefact store below one folder; any number of processes may use it at once."""

    def __init__(self, root: Path | None = None, remote: RemoteStore | None = None) -> None:
        """Open the store.

        Args:
            root: its folder; None for that of the home, with the second tier that the environment names.
            remote: second tier, where entries that are not here are looked up and new ones are written, too.
        """
        self.root = root or paths.store()
        self._remote = second_tier() if root is None and remote is None else remote

    def get(self, kind: str, key: str) -> Entry | None:
        """Return the entry, verified, or None when it is absent or damaged (then it is dropped)."""
        folder = self._folder(kind, key)
        record, damaged = _inspected(folder)
        if damaged:
            log.warning("store entry %s/%s is damaged (%s); it is made again", kind, key[:12], ", ".join(damaged))
            self._discard(folder)
        if damaged or record is None:
            return None
        os.utime(folder / RECORD)
        return _entry(folder, record, hit=True)

    def peek(self, kind: str, key: str) -> Entry | None:
        """Read an entry's record; None where there is none that is whole. Files are not verified, nor is it a use."""
        try:
            record = read_json(self._folder(kind, key) / RECORD)
            return _entry(self._folder(kind, key), record, hit=True) if is_intact(record) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def damage(self, kind: str, key: str) -> list[str]:
        """Name the files of an entry that are gone or not what was stored; none where the entry is being made."""
        if not _inspected(self._folder(kind, key))[1]:
            return []
        self._lock_folder()
        with suppress(CapacityError), self.lock(kind, key, timeout=0):  # it may have been replaced while it was read
            return _inspected(self._folder(kind, key))[1]
        return []

    def build(
        self,
        kind: str,
        key: str,
        make: Callable[[Path], Values],
        *,
        force: bool = False,
        lock_timeout: float = -1,
        on_abandoned: Callable[[Path], Values] | None = None,
        made_from: Values | None = None,
        while_waiting: Callable[[], None] = lambda: None,
    ) -> Entry:
        """Return the entry, making it when it is not there.

        Args:
            kind: name of the stage.
            key: digest of everything that the entry depends on.
            make: fills an empty folder with files and returns facts about them.
            force: make it again although it is there.
            lock_timeout: seconds to wait for another run that makes the same entry; -1 waits on.
            on_abandoned: used in place of `make` when another run was waited for and ended without the entry.
            made_from: parts of the key, kept in the entry's record; JSON-serialisable.
            while_waiting: called again and again while another run makes the entry; what it raises ends the wait.

        Raises:
            CapacityError: the disk is full, or another run held the entry longer than `lock_timeout`.
        """
        with self.lock(kind, key, lock_timeout, while_waiting) as waited:
            entry = self.get(kind, key) if waited or not force else None
            if entry and not force:
                return entry
            fetched = None if force else self._fetch(kind, key, while_waiting)
            if fetched is not None:
                return fetched
            if waited and entry is None:
                log.warning("the other run ended without this %s; it is made here", kind)
                make = on_abandoned or make
            with disk_errors(self.root):
                made = self._make(kind, key, make, made_from or {})
            if self._remote is not None:
                self._remote.push(made.folder, read_json(made.folder / RECORD), while_waiting)
            return made

    def find(self, kind: str, key: str) -> Entry | None:
        """Return the entry, verified, from here or from the second tier; None when neither has it."""
        with suppress(CapacityError), self.lock(kind, key, timeout=0):
            return self.get(kind, key) or self._fetch(kind, key)
        return self.get(kind, key)

    def _fetch(self, kind: str, key: str, while_waiting: Callable[[], None] = lambda: None) -> Entry | None:
        """Copy an entry from the second tier to here."""
        if self._remote is None:
            return None
        building = self.root / "building" / uuid.uuid4().hex
        with disk_errors(self.root), self._building(building.name):
            building.mkdir(parents=True)
            try:
                record = self._remote.fetch(kind, key, building, while_waiting)
                return None if record is None else self._put(building, record, hit=True)
            finally:
                shutil.rmtree(building, ignore_errors=True)

    @contextmanager
    def lock(
        self, kind: str, key: str, timeout: float = -1, while_waiting: Callable[[], None] = lambda: None
    ) -> Iterator[bool]:
        """Hold the entry's lock, which the system frees when its holder dies; yield whether another run had it before.

        Args:
            kind, key: of the entry.
            timeout: seconds to wait at most; -1 waits on.
            while_waiting: called again and again meanwhile; what it raises ends the wait.

        Raises:
            CapacityError: another run held it longer than `timeout`.
        """
        lock = FileLock(self._lock_folder() / f"{kind}-{key}.lock")
        waited = not _taken(lock, 0, while_waiting)
        if waited and not _taken(lock, NOTICE_SECONDS if timeout < 0 else min(timeout, NOTICE_SECONDS), while_waiting):
            if timeout < 0 or timeout > NOTICE_SECONDS:
                log.warning("another run is making this %s; waiting for it", kind)
            if not _taken(lock, timeout if timeout < 0 else max(0.0, timeout - NOTICE_SECONDS), while_waiting):
                raise CapacityError(
                    f"another run has been making this {kind} for over {timeout:g} s; "
                    "wait for it, or end it with `liveavatar stop`"
                )
        try:
            yield waited
        finally:
            lock.release()

    def _lock_folder(self) -> Path:
        folder = self.root / "locks"
        with disk_errors(self.root):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def is_locked(self, kind: str, prefix: str) -> bool:
        """Tell if a run makes an entry whose key begins with `prefix`."""
        for path in (self.root / "locks").glob(f"{kind}-{prefix}*.lock"):
            lock = FileLock(path)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return True
            lock.release()
        return False

    @contextmanager
    def using(self) -> Iterator[None]:
        """Keep others from dropping entries that are read or made inside the block."""
        path = self._lock_folder() / f"using-{time.time_ns()}-{uuid.uuid4().hex[:8]}.lock"
        with FileLock(path):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def _used_since(self) -> float:
        """Return the time from which on entries are in use: the begin of the oldest job under way, s since 1970."""
        begins = [math.inf]
        for path in (self.root / "locks").glob("using-*.lock"):
            lock = FileLock(path)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                begins.append(int(path.name.split("-")[1]) / 1e9 - CLOCK_SECONDS)
            else:  # of a process that was killed
                path.unlink(missing_ok=True)
                lock.release()
        return min(begins)

    def entries(self) -> list[StoredEntry]:
        """List all entries, the longest unused first; files are not verified."""
        found: list[tuple[float, Path, int]] = []
        for record in self.root.glob(f"*/??/*/{RECORD}"):
            with suppress(FileNotFoundError):  # dropped meanwhile
                size = sum(file.stat().st_size for file in record.parent.rglob("*") if file.is_file())
                found.append((record.stat().st_mtime, record.parent, size))
        since = self._used_since()  # asked last: a job that has used one of them has begun by now
        return [
            StoredEntry(
                kind=folder.parent.parent.name, key=folder.name, folder=folder, size=size, used=used,
                in_use=used >= since,
            )
            for used, folder, size in sorted(found)
        ]  # fmt: skip

    def surplus(self, max_bytes: int, max_age_days: float) -> list[StoredEntry]:
        """List entries unused for `max_age_days`, then the longest unused until at most `max_bytes` stay.

        Those in use stay.
        """
        now, entries = time.time(), self.entries()
        left, gone = sum(entry.size for entry in entries), list[StoredEntry]()
        for entry in entries:
            if now - entry.used <= max_age_days * 86400 and left <= max_bytes:
                break
            if not entry.in_use:
                gone.append(entry)
                left -= entry.size
        return gone

    def drop(self, entry: StoredEntry) -> bool:
        """Delete an entry, unless it has been used since it was listed or is being made; tell if it is gone."""
        with suppress(CapacityError, FileNotFoundError), self.lock(entry.kind, entry.key, timeout=0):
            if entry.in_use or (entry.folder / RECORD).stat().st_mtime > entry.used:
                return False
            self._discard(entry.folder)
            return True
        return not entry.folder.exists()

    def collect(self, max_bytes: int, max_age_days: float) -> int:
        """Drop the entries of `surplus` and what killed processes left half-built.

        Returns:
            Bytes freed.
        """
        for leftover in (self.root / "building").glob("*"):  # of a run that was killed, unless its lock is held
            with suppress(CapacityError, Timeout), self._building(leftover.name, timeout=0):
                shutil.rmtree(leftover, ignore_errors=True)
        return sum(entry.size for entry in self.surplus(max_bytes, max_age_days) if self.drop(entry))

    def folders(self, kind: str, prefix: str = "") -> list[Path]:
        """List folders of a stage's entries whose key begins with `prefix`, last used first; files are not verified."""
        used: list[tuple[float, Path]] = []
        for record in self.root.glob(f"{kind}/??/{glob.escape(prefix)}*/{RECORD}"):
            with suppress(FileNotFoundError):  # dropped meanwhile
                used.append((record.stat().st_mtime, record.parent))
        return [folder for _, folder in sorted(used, reverse=True)]

    def recent(self, kind: str, other_than: str, most: int) -> Iterator[Entry]:
        """Read the `most` last used entries of a stage, newest first, one key aside; files are not verified."""
        folders = (folder for folder in self.folders(kind) if folder.name != other_than)
        for folder in islice(folders, most):
            with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                yield _entry(folder, read_json(folder / RECORD), hit=True)

    def digests(self) -> set[str]:
        """Read the sha256 of every file that the records of the store list; files are not verified."""
        found: set[str] = set()
        for record in self.root.glob(f"*/??/*/{RECORD}"):
            with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                found.update(read_json(record)["files"].values())
        return found

    def _folder(self, kind: str, key: str) -> Path:
        return self.root / kind / key[:2] / key

    def _make(self, kind: str, key: str, make: Callable[[Path], Values], made_from: Values) -> Entry:
        building = self.root / "building" / uuid.uuid4().hex
        with self._building(building.name):
            return self._fill(building, kind, key, make, made_from)

    @contextmanager
    def _building(self, name: str, timeout: float = -1) -> Any:
        """Own a half-built folder: a render may take days, and a clock may jump, before it is whole."""
        path = self.root / "locks" / f"building-{name}.lock"
        with FileLock(path, timeout=timeout):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def _fill(self, building: Path, kind: str, key: str, make: Callable[[Path], Values], made_from: Values) -> Entry:
        building.mkdir(parents=True)
        try:
            values = make(building)
            files = {p.relative_to(building).as_posix(): p for p in sorted(building.rglob("*")) if p.is_file()}
            digests = {name: sha256(path) for name, path in files.items()}
            record = {"kind": kind, "key": key, "files": digests, "values": values, "made_from": made_from}
            return self._put(building, signed(record))
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def _put(self, building: Path, record: Values, hit: bool = False) -> Entry:
        """Write the record of a filled folder and move it to its place."""
        write_atomically(building / RECORD, json.dumps(record, indent=1).encode())
        for name in record["files"]:
            sync(building / name)
        folder = self._folder(record["kind"], record["key"])
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._discard(folder)
        os.rename(building, folder)
        sync(folder.parent)
        return _entry(folder, record, hit)

    def _discard(self, folder: Path) -> None:
        """Take a folder out of sight in one step, then delete it."""
        if not folder.exists():
            return
        grave = self.root / "building" / uuid.uuid4().hex
        grave.parent.mkdir(parents=True, exist_ok=True)
        os.rename(folder, grave)
        shutil.rmtree(grave, ignore_errors=True)


def _entry(folder: Path, record: Values, hit: bool = False) -> Entry:
    """Read the entry that a record describes; KeyError and the like where it is none."""
    return Entry(
        kind=record["kind"],
        key=record["key"],
        folder=folder,
        files=record["files"],
        values=record["values"],
        made_from=record["made_from"],
        hit=hit,
    )


def _inspected(folder: Path) -> tuple[Values | None, list[str]]:
    """Read the record of an entry and name its damaged files; (None, []) where there is no entry."""
    try:
        record = read_json(folder / RECORD)
        damaged = [name for name, sha in _entry(folder, record).files.items() if not has_digest(folder / name, sha)]
        damaged += [] if is_intact(record) else [RECORD]
    except OSError as e:
        if e.errno not in GONE:
            raise
        record, damaged = None, [RECORD]
    except (ValueError, KeyError, TypeError, AttributeError):
        record, damaged = None, [RECORD]
    return (record, damaged) if folder.exists() else (None, [])


def _taken(lock: FileLock, seconds: float, while_waiting: Callable[[], None]) -> bool:
    """Take a lock, waiting at most so many seconds; -1 waits on."""
    deadline = math.inf if seconds < 0 else time.monotonic() + seconds
    while True:
        left = max(0.0, deadline - time.monotonic())
        try:
            lock.acquire(timeout=min(left, CALL_SECONDS))
            return True
        except Timeout:
            if left <= CALL_SECONDS:
                return False
        while_waiting()
