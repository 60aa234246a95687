"""Repairs of `liveavatar doctor --fix`: leftovers of our processes that have died, and missing folders.

Nothing of the user's is touched, nor what a living process may still use. Locks are freed by the system, renders
under way stay for `--resume`, and the temporary folder that Ray chooses is left to Ray.
"""

import contextlib
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from flows.serving.prefect_server import run_dir
from flows.serving.process_record import process_of
from liveavatar import paths
from tasks.cluster import guardian, ray_folder

HALF_WRITTEN = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")  # as `liveavatar.files.replacing` names them
RECORD_SECONDS = 60.0  # a younger record may still be written
QUIET_SECONDS = 600.0  # a file that nobody wrote for so long and nobody has open belongs to a dead process
LOOKS, PAUSE_SECONDS = 3, 1.0  # a driver starts another guardian for one that was killed


def repair() -> list[str]:
    """Make all repairs; return a line for each thing that was done."""
    steps: tuple[Callable[[], Iterator[str]], ...] = (
        make_folders, protect_token, drop_half_written, drop_records, drop_sessions, end_orphans,
    )  # fmt: skip
    return [line for step in steps for line in step()]


def make_folders() -> Iterator[str]:
    """Make the home and its folder of running commands."""
    for folder in (paths.home(), paths.run()):
        if not folder.exists():
            folder.mkdir(parents=True)
            yield f"made {folder}"


def protect_token() -> Iterator[str]:
    """Take the token of the local Ray from the eyes of other users."""
    token = paths.ray_token()
    if token.is_file() and stat.S_IMODE(token.stat().st_mode) & 0o077:
        token.chmod(0o600)
        yield f"{token} may be read by you only now"


def drop_half_written() -> Iterator[str]:
    """Delete files below the home that a dead process left half-written."""
    found = [path for path in _below(paths.home()) if HALF_WRITTEN.fullmatch(path.name)]
    used = _open_files() if found else set()
    for path in found:
        with contextlib.suppress(OSError):
            facts = path.lstat()
            if stat.S_ISREG(facts.st_mode) and time.time() - facts.st_mtime > QUIET_SECONDS and path not in used:
                path.unlink()
                yield f"deleted {path}, half-written, {facts.st_size / 1e6:.1f} MB"


def _below(home: Path) -> Iterator[Path]:
    """List files below the home, checkpoints aside; links are not followed."""
    for folder, folders, names in os.walk(home.resolve()):
        folders[:] = [name for name in folders if Path(folder, name) != paths.models_home().resolve()]
        yield from (Path(folder, name) for name in names)


def _open_files() -> set[Path]:
    """List the files that processes of this user have open."""
    found = set()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            found.add(Path(os.readlink(descriptor)))
    return found


def drop_records() -> Iterator[str]:
    """Delete the records of commands that have ended."""
    for record in sorted(run_dir().glob("*-*.json")):
        with contextlib.suppress(FileNotFoundError):
            if process_of(record) is None and time.time() - record.stat().st_mtime > RECORD_SECONDS:
                record.unlink()
                yield f"deleted {record}, of a command that has ended"


def drop_sessions() -> Iterator[str]:
    """Delete what dead local Rays left in our own short folder for sockets."""
    for session in sorted(ray_folder.own_sockets().glob("session_*_*")):
        driver = session.name.rpartition("_")[2]
        if session.is_dir() and not session.is_symlink() and driver.isdecimal() and not psutil.pid_exists(int(driver)):
            shutil.rmtree(session, ignore_errors=True)
            yield f"deleted {session}, of a Ray that has ended"


def end_orphans() -> Iterator[str]:
    """Kill processes of local Rays of this home that have neither a driver nor a guardian any more."""
    orphans = _orphans()
    for _ in range(LOOKS if orphans else 0):
        time.sleep(PAUSE_SECONDS)
        orphans &= _orphans()
    for token in sorted(orphans):
        yield f"ended {guardian.end_marked(token)} processes of a Ray whose command is gone"


def _orphans() -> set[str]:
    """Find the marks of processes of this home that no guardian watches."""
    marked, watched = set(), set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if str(guardian.__file__) in command:
                watched.add(command[-1])
                continue
            environment = process.environ()
            if guardian.MARK in environment and _home_of(environment) == paths.home().resolve():
                marked.add(environment[guardian.MARK])
    return marked - watched


def _home_of(environment: dict[str, str]) -> Path:
    named = environment.get("LIVEAVATAR_HOME", "")
    return Path(named).resolve() if os.path.isabs(named) else paths.home().resolve() if not named else Path()
