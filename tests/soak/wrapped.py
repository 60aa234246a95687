"""A command with a fault inside its own process: `python -m tests.soak.wrapped FAULT ... -- COMMAND LINE`.

`clock`: the time of day jumps by up to an hour at every look. `table BALLAST NUMBER ROOM`: the disk fills up as a table
is written.
"""

import os
import random
import sys
import time
from pathlib import Path
from typing import Any

HOUR = 3600.0


def jump_clock() -> None:
    """Make the time of day in this process jump by up to an hour, back and forth, at every look."""
    real, rng = time.time, random.Random(os.getpid())
    time.time = lambda: real() + rng.uniform(-HOUR, HOUR)


def fill_at_table(ballast: Path, table: int, room: int) -> None:
    """Leave only `room` bytes on the disk of `ballast` when table number `table` is written."""
    import pandas as pd

    whole, calls = pd.DataFrame.to_parquet, iter(range(2))

    def to_parquet(self: pd.DataFrame, *rest: Any, **named: Any) -> Any:
        if next(calls) == table:
            free = os.statvfs(ballast.parent)
            ballast.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - room)))
        return whole(self, *rest, **named)

    pd.DataFrame.to_parquet = to_parquet  # type: ignore[method-assign]


def main() -> int:
    """Prepare the fault and run the command."""
    from flows import cli

    if sys.argv[1] == "clock":
        jump_clock()
        return cli.main(sys.argv[3:])
    ballast, table, room = sys.argv[2:5]
    fill_at_table(Path(ballast), int(table), int(room))
    return cli.main(sys.argv[6:])


if __name__ == "__main__":
    sys.exit(main())
