"""Address of the Ray cluster that is joined, `RAY_ADDRESS`, asked before Ray is: Ray would wait for minutes.

Imports nothing of Ray.
"""

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from liveavatar.errors import CapacityError, InputError
from liveavatar.files import read_bytes

PROBE_SECONDS = 10.0  # until a cluster that does not answer is given up


def cluster_address(ask: Callable[[str], object] = lambda _: None) -> str:
    """Return the address in `RAY_ADDRESS` once a cluster answers there; "" for a local Ray, which "local" means, too.

    Args:
        ask: puts a question to the cluster at an address; may never return, and raises RuntimeError or OSError when
            it is none. Without it, a connection is enough.

    Raises:
        InputError: it is no address.
        CapacityError: nothing answers there within `PROBE_SECONDS`.
    """
    given = os.environ.get("RAY_ADDRESS", "").strip()
    if given in ("", "local"):
        os.environ.pop("RAY_ADDRESS", None)
        return ""
    address = _last_cluster() if given == "auto" else given
    host, _, port = address.removeprefix("ray://").rpartition(":")
    is_address = bool(host) and port.isdigit() and int(port) < 2**16
    if given != "auto" and not is_address:
        raise InputError(
            f"RAY_ADDRESS={given} is no address of a Ray cluster; give host:port, ray://host:port or auto, "
            "or unset the variable for a local one"
        )
    problem = _problem(address, host.strip("[]"), int(port), ask) if is_address else "none was started on this machine"
    if problem:
        found = f"auto: {address}, " if given == "auto" and address else ""
        raise CapacityError(
            f"RAY_ADDRESS={given}: no Ray cluster answers there ({found}{problem}); start it, or unset the variable "
            "for a local one"
        )
    return address


def _problem(address: str, host: str, port: int, ask: Callable[[str], object]) -> str:
    """Say what is wrong with a cluster; empty when it answers."""
    answers: list[str] = []

    def run() -> None:
        try:
            socket.create_connection((host, port), timeout=PROBE_SECONDS).close()
            ask(address)
            answers.append("")
        except (OSError, RuntimeError) as e:
            answers.append((str(e) or type(e).__name__).splitlines()[0])

    asking = threading.Thread(target=run, daemon=True)
    asking.start()
    asking.join(PROBE_SECONDS)
    return answers[0] if answers else f"silent for {PROBE_SECONDS:.0f} s"


def _last_cluster() -> str:
    """Read the address of the cluster that was started last on this machine, which "auto" means; "" without one."""
    folder = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray"
    try:
        return read_bytes(folder / "ray_current_cluster").decode().strip()
    except (OSError, ValueError):  # the latter for damaged text
        return ""
