"""The error family, with the exit code each member ends a command with.

LiveAvatarError            1
├── InputError             2   what the user gave cannot be used (audio, image, prompt, file, option)
│   └── CheckpointError    2   a model directory is incomplete, damaged or for another architecture
├── CapacityError          3   it does not fit this machine (memory, disk, GPU)
└── Interrupted            4   stopped, and resumable with `--resume`

Every message is one line that says what was given, what is wrong, and the way out.
"""


class LiveAvatarError(Exception):
    """Base of all errors a user can meet; never raised itself."""

    exit_code = 1


class InputError(LiveAvatarError):
    """What the user gave cannot be used. Never retried."""

    exit_code = 2


class CheckpointError(InputError):
    """A model directory is incomplete, damaged, or of another architecture."""


class CapacityError(LiveAvatarError):
    """The job does not fit this machine. Never retried."""

    exit_code = 3


class Interrupted(LiveAvatarError):
    """The job was stopped and can be continued with `--resume`."""

    exit_code = 4
