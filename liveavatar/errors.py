"""Errors that a user can meet, with their exit codes.

LiveAvatarError            5
├── InputError             2   an input cannot be used (audio, image, prompt, file, option)
│   └── CheckpointError    2   a model directory is incomplete, damaged or for another architecture
├── CapacityError          3   it does not fit this machine (memory, disk, GPU)
└── Interrupted            4   stopped, and resumable with `--resume`

Every message is one line: the input, what is wrong with it, and the way out. Code 1 is no error: the render is done
and its quality failed. An error of any other class is a mistake of ours and ends a command with `INTERNAL`.
"""

import re

INTERNAL = 5  # exit code of a mistake of ours
LONGEST = 1000  # characters of a message; a file may be quoted in it
_CREDENTIALS = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/?#]*@", re.IGNORECASE)


class LiveAvatarError(Exception):
    """Base of all errors a user can meet; never raised itself. Its message is made one printable line."""

    exit_code = INTERNAL

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def without_passwords(text: str) -> str:
    """Leave user names and passwords out of the addresses in a text: `http://***@host`."""
    return _CREDENTIALS.sub(r"\1***@", text)


def one_line(text: str) -> str:
    """Make text one printable line of at most `LONGEST` characters; the middle of a longer one is left out."""
    line = printable(" ".join(filter(None, map(str.strip, text.splitlines()))))
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 3 :]}"


def printable(text: str) -> str:
    """Write control characters and the like as their escapes, so that text from a file cannot steer a terminal.

    Passwords of addresses are left out.
    """
    text = without_passwords(text)
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class InputError(LiveAvatarError):
    """An input or option that cannot be used. Never retried."""

    exit_code = 2


class CheckpointError(InputError):
    """A model directory is incomplete, damaged, or of another architecture."""


class CapacityError(LiveAvatarError):
    """The job does not fit this machine. Never retried."""

    exit_code = 3


class Interrupted(LiveAvatarError):
    """The job was stopped and can be continued with `--resume`."""

    exit_code = 4
