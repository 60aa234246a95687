"""Command lines under fixed names: `python -m liveavatar.tools.audio_preprocess`, and `noisereduce`.

`audio_preprocess` writes driving features of a sound file, `noisereduce` lowers the noise of one. Owns their command
lines. Does not know how anything is computed: the rooms do.
"""

import sys
from collections.abc import Callable

from liveavatar.errors import LiveAvatarError


def run(work: Callable[[], str]) -> int:
    """Run a command and return its exit code.

    Args:
        work: does it and returns the line that says what was made.
    """
    try:
        line = work()
    except LiveAvatarError as e:
        sys.stderr.write(f"{e}\n")
        return e.exit_code
    sys.stdout.write(f"{line}\n")
    return 0
