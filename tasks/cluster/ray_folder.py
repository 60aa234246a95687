"""The folder in which a local Ray keeps sockets and logs: short enough for them, with room for them.

It is the one that `RAY_TMPDIR`, else `TMPDIR` names, else `/tmp`; ours when that is too long. Nothing here imports Ray.
"""

import contextlib
import os
import stat
from pathlib import Path

from liveavatar.errors import CapacityError
from liveavatar.files import require_disk

LONGEST_TMPDIR = 30  # bytes; Ray adds about 75, and a socket's path has 107 at most
ROOM_BYTES = 5_000_000  # a short render leaves 0.2 MB of logs there


def require_room() -> None:
    """Refuse a local Ray that could not write its logs: it would wait for its own processes, or lose them, in silence.

    Raises:
        CapacityError: the disk of its folder is full, or there is no such folder.
    """
    variable, named = _named()
    require_disk(Path(short_folder() or named), ROOM_BYTES, "a local Ray", f"set {variable} to another folder")


def own_sockets() -> Path:
    """Return our own short folder for Ray's sockets, used when `TMPDIR` is too long."""
    return Path("/tmp", f"liveavatar-{os.getuid()}", "ray")


def short_folder() -> str | None:
    """Folder for the sockets of a local Ray when `TMPDIR` is too long for them; None leaves the choice to Ray.

    Raises:
        CapacityError: there is no such folder.
    """
    variable, long = _named()
    if len(os.fsencode(long)) <= LONGEST_TMPDIR:
        return None
    short = own_sockets().parent
    with contextlib.suppress(OSError):
        short.mkdir(mode=0o700, exist_ok=True)
        facts = short.lstat()
        if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid():
            short.chmod(0o700)
            return str(own_sockets())  # which Ray opens to everybody
    raise CapacityError(
        f"{variable}={long}: too long for Ray's sockets, and {short} cannot be used; set a shorter {variable}"
    )


def _named() -> tuple[str, str]:
    """Return the folder that Ray chooses, and the variable that changes it."""
    variable = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
    return variable, os.environ.get(variable) or "/tmp"
