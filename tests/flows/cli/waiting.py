"""A command that does nothing but wait: `python -m tests.flows.cli.waiting WHAT` with what is waited for."""

import sys
from collections.abc import Callable

from flows.cli import main, run
from flows.serving.prefect_server import PrefectServer
from liveavatar import paths
from tasks.store.store import Store


def _another_command() -> None:
    """Wait for the lock of an entry that another command makes."""
    Store(paths.store()).build("render", "key", lambda _: {})


def _database() -> None:
    """Wait for another command that creates the database of Prefect."""
    PrefectServer().__enter__()


def _prefect_server() -> None:
    """Wait for a Prefect server of our own, or for the one at `PREFECT_API_URL`."""
    with PrefectServer() as server:
        server.wait()


def _ray() -> None:
    """Wait for the cluster at `RAY_ADDRESS`."""
    from tasks.cluster import head

    head.connect()


WAITS: dict[str, Callable[[], None]] = {
    "another command": _another_command,
    "database": _database,
    "own prefect server": _prefect_server,
    "joined prefect server": _prefect_server,
    "ray": _ray,
}


def _command(_: object) -> int:
    sys.stdout.write("waits\n")
    sys.stdout.flush()
    WAITS[what]()
    return 0


if __name__ == "__main__":
    what = sys.argv[1]
    if len(sys.argv) > 2:
        sys.executable = sys.argv[2]  # in place of Python, as the program of our Prefect server
    run.stop = _command  # type: ignore[assignment]
    sys.argv[1:] = ["stop"]
    sys.exit(main())
