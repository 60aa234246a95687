"""A small disk that is really full after a while."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[Callable[[int], None]]:
    """Mount a folder with so much room, and yield a function that changes how much.

    Raises:
        PermissionError: only root may do that.
    """

    def mount(options: str, *more: str) -> None:
        done = subprocess.run(["mount", "-o", options, *more, str(folder)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise PermissionError(done.stderr.strip())

    mount(f"size={num_bytes}", "-t", "tmpfs", "tmpfs")
    try:
        yield lambda room: mount(f"remount,size={room}")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
