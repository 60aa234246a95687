"""Folders in which Python looks for modules: those that depend on the working directory are left out.

`PYTHONPATH=:/lib`, which `PYTHONPATH=$PYTHONPATH:/lib` makes of an unset variable, has the working directory in it, and
a file of the user's such as `tasks.py` or `random.py` would be imported in place of the one that is meant. The commands
(`infra/bin/`) have put such folders last, so that this file is ours; it is imported before anything else of ours, so
it imports nothing of ours.
"""

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # a checkout may be named as "."


def entries() -> list[str]:
    """List the entries of `PYTHONPATH`; an empty one is the working directory."""
    named = os.environ.get("PYTHONPATH", "")
    return named.split(os.pathsep) if named else []


def leave_out_relative() -> None:
    """Take relative entries of `PYTHONPATH` out of this process's search path."""
    unsafe = {os.path.abspath(entry) for entry in entries() if not os.path.isabs(entry)} - {ROOT}
    sys.path[:] = [entry for entry in sys.path if entry not in unsafe]
