"""Standard streams that are missing or get lost: a closed terminal, a pipe without a reader, a log on a full disk.

What a command makes lies in files; nobody need be there to read its lines.
"""

import os
import sys

_NAMES = ("stdin", "stdout", "stderr")


def complete() -> None:
    """Open the null device in place of each standard stream that was closed before the command began.

    Files that are opened later would take their numbers, and get what libraries and other processes write there.
    """
    for number, name in enumerate(_NAMES):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            os.dup2(opened, number)
            if opened != number:
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115 (for good)


def lose(name: str) -> None:
    """Let what is written to a standard stream go nowhere from now on: Python ends with code 120 for what it cannot
    write at its end.
    """
    setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (for good)
