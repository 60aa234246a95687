"""The guardian kills the processes with its mark, and no others, when its input ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tasks.cluster import guardian

SECONDS = 60


@dataclass
class Sleepers:
    """Processes that sleep: with the mark of `token`, with a longer one, without."""

    token: str
    marked: "subprocess.Popen[bytes]"
    others: list["subprocess.Popen[bytes]"]

    def check_that_only_the_marked_one_is_killed(self) -> None:
        assert self.marked.wait(SECONDS) == -signal.SIGKILL
        assert [process.poll() for process in self.others] == [None, None]


def _sleep(token: str | None) -> "subprocess.Popen[bytes]":
    environment = {k: v for k, v in os.environ.items() if k != guardian.MARK}
    command = [sys.executable, "-ISc", "print(flush=True); import time; time.sleep(600)"]
    process = subprocess.Popen(
        command, env=environment | ({guardian.MARK: token} if token else {}), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()  # from here on it has its own environment
    return process


@pytest.fixture
def sleepers() -> Iterator[Sleepers]:
    token = os.urandom(8).hex()
    processes = Sleepers(token, _sleep(token), [_sleep(f"{token}0"), _sleep(None)])
    yield processes
    for process in (processes.marked, *processes.others):
        process.kill()
        process.communicate()


def test_only_processes_with_the_mark_are_killed(sleepers: Sleepers) -> None:
    assert guardian.end_marked(sleepers.token) == 1
    sleepers.check_that_only_the_marked_one_is_killed()


def test_it_acts_when_its_input_ends(sleepers: Sleepers) -> None:
    process = subprocess.Popen([sys.executable, "-I", str(guardian.__file__), sleepers.token], stdin=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        sleepers.marked.wait(0.3)
    process.communicate(timeout=SECONDS)
    sleepers.check_that_only_the_marked_one_is_killed()
