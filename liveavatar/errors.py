"""Errors that a user can meet, with their exit codes.

LiveAvatarError            5
├── InputError             2   an input cannot be used (audio, image, prompt, file, option)
│   └── CheckpointError    2   a model directory is incomplete, damaged or for another architecture
├── CapacityError          3   it does not fit this machine (memory, disk, GPU)
└── Interrupted            4   stopped, and resumable with `--resume`

Every message is one line: the input, what is wrong with it, and the way out. Code 1 is no error: the render is done
and its quality failed. An error of any other class is a mistake of ours and ends a command with `INTERNAL`.
"""

INTERNAL = 5  # exit code of a mistake of ours


class LiveAvatarError(Exception):
    """Base of all errors a user can meet; never raised itself."""

    exit_code = INTERNAL


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
