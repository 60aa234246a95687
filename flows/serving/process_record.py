"""Files that name a process, so that another command can tell whether it still runs."""

import os
from pathlib import Path
from typing import Any

import psutil

from liveavatar.files import read_json

ENDED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def own_process() -> dict[str, Any]:
    """Return what a record says of this process."""
    return {"pid": os.getpid(), "created": psutil.Process().create_time()}


def process_of(record: Path) -> psutil.Process | None:
    """Find the process of a record; None when it has gone, or its number belongs to another by now.

    One that has ended counts as gone although its parent has not taken note of it (a zombie): the first process of a
    container often never does.
    """
    try:
        facts = read_json(record)
        process = psutil.Process(int(facts["pid"]))
        ours = abs(process.create_time() - facts["created"]) < 1
        return process if ours and process.status() not in ENDED else None
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None
