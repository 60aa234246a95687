"""The database of our own Prefect server: one server creates it, and a damaged one is moved aside.

Several commands may use it at once, each with a server of its own. Reading all its pages takes seconds once it holds
many runs, so they are checked only when it is not as the last server left it, or when a server does not come up.
"""

import contextlib
import fcntl
import importlib.metadata
import logging
import os
import shutil
import sqlite3
import time
from pathlib import Path

from filelock import FileLock, Timeout

from liveavatar import paths
from liveavatar.errors import CapacityError
from liveavatar.files import disk_full, read_bytes, recall, remember

log = logging.getLogger(__name__)

START_SECONDS = 180.0  # a first start creates the database: 9 s here, more on a slow disk
SILENT_SECONDS = 10.0  # of waiting without a line
CHECK_SECONDS = 3.0  # for the pages of the database
DATABASE = "prefect.db"
DATABASE_BYTES = 2_000_000  # that a new one needs


class DatabaseLock:
    """Lock of Prefect's database while a server creates it, or migrates it to another version of Prefect.

    Two servers that do so at once end one another.
    """

    def __init__(self, home: Path) -> None:
        self._home, self._version = home, importlib.metadata.version("prefect")
        self._database = home / DATABASE
        self._lock = FileLock(home / "creating.lock", thread_local=False)
        self._unfinished = home / "database_unfinished"
        self._use = DatabaseUse(home)

    @property
    def creating(self) -> bool:
        """True when the database is ours to create."""
        return bool(self._lock.is_locked)

    @property
    def disposable(self) -> bool:
        """True when the database is new and ours: half made it is replaced at the next start."""
        return self.creating and self._unfinished.exists()

    def acquire(self) -> None:
        """Take the lock unless the database is whole, also after waiting for another server that created it.

        One that is damaged is moved aside: it holds records, and nothing that a run needs.

        Raises:
            CapacityError: the other server takes too long.
        """
        if not (self._is_known() and self._use.is_trusted()):
            self._take()
            damaged = is_damaged(self._database)
            if self._is_known() and not damaged:
                self.release()
            else:
                self._clear(damaged=damaged)
        self._use.begin()

    def replace_damaged(self) -> bool:
        """Check the pages, for a server that does not come up; True when they were damaged and a new one may begin.

        Raises:
            CapacityError: another server takes too long to create it.
        """
        creating, found = self.creating, _identity(self._database)
        if not creating:
            self._take()
        if _identity(self._database) != found:
            return True  # another command has replaced it meanwhile
        damaged = is_damaged(self._database)
        if damaged:
            self._clear(damaged=True)
        elif not creating:
            self.release()
        return damaged

    def _take(self) -> None:
        try:
            try:
                self._lock.acquire(timeout=SILENT_SECONDS)
            except Timeout:
                log.warning("waits for another command, which creates the database of Prefect")
                self._lock.acquire(timeout=START_SECONDS)
        except Timeout as e:
            raise no_server(f"waited over {START_SECONDS:.0f} s for another that creates the database") from e

    def _is_known(self) -> bool:
        return _version_of(self._home) == self._version

    def _clear(self, *, damaged: bool) -> None:
        """Make room for a new database where there is none that a server can use."""
        self.drop_unfinished()
        if damaged and self._database.exists():
            self._move_aside()
        if not self._database.exists():
            self._unfinished.touch()

    def _move_aside(self) -> None:
        place = self._home / f"damaged-{time.time():.0f}"
        place.mkdir(exist_ok=True)
        for part in self._home.glob(f"{DATABASE}*"):
            part.rename(place / part.name)
        log.warning(
            "the records of Prefect in %s are damaged; they were moved to %s, and new ones begin", self._home, place
        )

    def drop_unfinished(self) -> None:
        """Delete a new database of ours whose server was killed before it was whole."""
        if self.disposable:
            for part in self._home.glob(f"{DATABASE}*"):
                part.unlink()

    def mark_created(self) -> None:
        """Record that a server answered: the database is whole; then release the lock."""
        if self.creating:
            _version_path(self._home).write_text(self._version)
            self._unfinished.unlink(missing_ok=True)
            self.release()

    def release(self) -> None:
        """Release the lock, if it is ours."""
        self._lock.release()

    def close(self, *, cleanly: bool) -> None:
        """Record that our server has ended, by itself or killed; release the lock."""
        self._use.end(cleanly=cleanly)
        self.release()


class DatabaseUse:
    """Use of the database by a server of ours; tells if the pages were left whole by the last one.

    A user holds a shared lock, which the system drops when its process dies; a server that ends by itself leaves the
    size and time of the database.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._left = home / "database_left.json"
        self._lock: int | None = None

    def is_trusted(self) -> bool:
        """Tell if another server uses the database now, or it is as the last one left it."""
        return self._is_used() or recall(self._left, self._stamp()) is not None

    def begin(self) -> None:
        """Tell other commands that this one uses the database."""
        self._lock = self._open()
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def end(self, *, cleanly: bool) -> None:
        """Tell that it is used no longer; `cleanly` when the server ended by itself."""
        if self._lock is None:
            return
        os.close(self._lock)
        self._lock = None
        if cleanly and not self._is_used():
            remember(self._left, self._stamp(), {})

    def _open(self) -> int:
        return os.open(self._home / "database_used.lock", os.O_RDWR | os.O_CREAT, 0o600)

    def _is_used(self) -> bool:
        probe = self._open()
        try:
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(probe)
        return False

    def _stamp(self) -> list[list[object]]:
        parts = [(path.name, path.stat()) for path in sorted(self._home.glob(f"{DATABASE}*"))]
        return [[name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for name, stat in parts]


def _identity(database: Path) -> int | None:
    """Tell one file from another that took its place."""
    return database.stat().st_ino if database.exists() else None


def is_damaged(database: Path) -> bool:
    """Check the pages of a database of SQLite, for so many seconds at most; one that is not there is not damaged."""
    if not database.exists():
        return False
    deadline = time.monotonic() + CHECK_SECONDS
    try:
        with contextlib.closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
            return bool(connection.execute("PRAGMA quick_check(1)").fetchall() != [("ok",)])
    except sqlite3.OperationalError:  # in use, or it takes too long
        return False
    except sqlite3.DatabaseError:
        return True


def _version_path(home: Path) -> Path:
    return home / "database_version"


def _version_of(home: Path) -> str | None:
    """Read the version of Prefect whose server last came up with the database of a home."""
    try:
        return read_bytes(_version_path(home)).decode()
    except (FileNotFoundError, ValueError):  # the latter for damaged text
        return None


def log_path() -> Path:
    """Return the log of our own server."""
    return Path(os.environ["PREFECT_HOME"]) / "server.log"


def no_server(why: str) -> CapacityError:
    """Return the error of a server of ours that does not come up; a full disk is named."""
    if shutil.disk_usage(log_path().parent).free < DATABASE_BYTES:
        return disk_full(paths.home())
    return CapacityError(
        f"the local Prefect server {why}; see {log_path()}, or set PREFECT_API_URL to a server of your own"
    )
