"""SIGTERM and Ctrl-C end every wait of a command within seconds, with exit code 4, and leave no process."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from flows.serving.prefect_database import DatabaseLock
from liveavatar.hardware import cores
from liveavatar.paths import REPO_ROOT
from tasks.store.store import Store
from tests.flows.cli.waiting import WAITS

END_SECONDS = 5.0
SETTLE_SECONDS = 1.0  # from the line to the wait itself
STUBBORN = "#!/bin/sh\ntrap '' TERM INT\nexec sleep 60\n"  # a server that never answers and ends by `kill -9` only


@pytest.fixture
def surroundings(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a command that waits for anything: what is held, and servers that never answer."""
    home, stubborn = tmp_path / "home", tmp_path / "python"
    (home / "prefect").mkdir(parents=True)
    stubborn.write_text(STUBBORN)
    stubborn.chmod(0o755)
    with ExitStack() as held:
        silent = held.enter_context(socket.create_server(("127.0.0.1", 0)))
        held.enter_context(Store(home / "store").lock("render", "key"))
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "RAY_", "LIVEAVATAR_"))}
        yield {**kept, "LIVEAVATAR_HOME": str(home), "SILENT": f"127.0.0.1:{silent.getsockname()[1]}"}


def patience() -> float:
    """Return how much slower than an idle machine this one may be: what runs beside us counts."""
    return max(1.0, os.getloadavg()[0] / cores())


EVERY = [pytest.param(what, signal.SIGTERM, id=f"{what}, SIGTERM") for what in WAITS] + [
    pytest.param(what, signal.SIGINT, id=f"{what}, Ctrl-C", marks=[] if what == "ray" else pytest.mark.nightly)
    for what in WAITS
]


@pytest.mark.parametrize(("what", "number"), EVERY)
def test_a_signal_ends_the_wait(
    what: str, number: signal.Signals, surroundings: dict[str, str], tmp_path: Path
) -> None:
    if what == "joined prefect server":
        surroundings["PREFECT_API_URL"] = f"http://{surroundings['SILENT']}/api"
    if what == "ray":
        surroundings["RAY_ADDRESS"] = surroundings["SILENT"]
    database = DatabaseLock(tmp_path / "home" / "prefect")
    if what == "database":
        database.acquire()
    command = [sys.executable, "-m", "tests.flows.cli.waiting", what, str(tmp_path / "python")]
    with (tmp_path / "errors").open("wb") as errors:
        process = subprocess.Popen(
            command, cwd=REPO_ROOT, env=surroundings, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
    assert process.stdout is not None
    assert process.stdout.readline() == b"waits\n"
    time.sleep(SETTLE_SECONDS)
    assert process.poll() is None, "it does not wait"
    family = psutil.Process(process.pid).children(recursive=True)
    struck, allowed = time.monotonic(), END_SECONDS * patience()
    process.send_signal(number)
    try:
        assert process.wait(allowed) == 4, (tmp_path / "errors").read_text()
        assert (tmp_path / "errors").read_text().splitlines()[-1].startswith("liveavatar: `liveavatar stop` was interr")
        assert not psutil.wait_procs(family, timeout=max(0.0, struck + allowed - time.monotonic()))[1]
    finally:
        for left in (process, *family):
            with suppress(psutil.NoSuchProcess):
                left.kill()
        database.release()
