"""The Ray of `liveavatar serve` as the commands that joined it see it: found again when it was lost and replaced.

`serve` lists the addresses of all its Rays in its record, the present one also by itself. Nothing here imports Ray.
"""

import time
from pathlib import Path
from typing import Any

from liveavatar import paths
from liveavatar.errors import Interrupted
from liveavatar.files import read_json
from tasks.cluster.interruption import Interruption

SUCCESSOR_SECONDS = 240.0  # for `liveavatar serve` to replace its Ray: two attempts of a busy machine
ASK_SECONDS = 0.5  # between two looks at the record


def successor(lost: str, interruption: Interruption) -> str:
    """Wait for the address of the Ray that `liveavatar serve` has started in place of a lost one.

    Raises:
        Interrupted: the lost one was not that of a `liveavatar serve`, or no other came.
        KeyboardInterrupt: the job was interrupted.
    """
    deadline = time.monotonic() + SUCCESSOR_SECONDS
    while True:
        interruption.check()
        present = [facts["ray"] for facts in map(_facts, paths.run().glob("serve-*.json")) if lost in facts["rays"]]
        for address in present:
            if address != lost:
                return str(address)
        if not present or time.monotonic() > deadline:
            raise Interrupted(
                f"the Ray cluster at {lost} is gone; start it again and run the same command with "
                "--resume, or unset RAY_ADDRESS"
            )
        time.sleep(ASK_SECONDS)


def _facts(record: Path) -> dict[str, Any]:
    try:
        facts = read_json(record)
        return {"ray": str(facts["ray"]), "rays": list(facts["rays"])}
    except (OSError, ValueError, LookupError, TypeError):  # gone meanwhile, or of an older `serve`
        return {"ray": "", "rays": []}
