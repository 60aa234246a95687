"""Callers of an engine: a killed one is noticed in a real cluster, and a call ends with its caller."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from liveavatar.errors import Interrupted
from tasks.cluster import callers
from tasks.cluster.callers import Call, is_gone, this_caller
from tasks.cluster.head import connect, disconnect
from tests.browser import wait_for

CALLER = """
import time
from tasks.cluster.callers import this_caller
from tasks.cluster.head import connect
connect()
print("caller", this_caller(), flush=True)
time.sleep(600)
"""


def test_a_killed_caller_is_gone_and_one_that_lives_is_not() -> None:
    environment = os.environ | {"RAY_ADDRESS": connect()}
    try:
        command = [sys.executable, "-c", CALLER]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            other = next(line.split()[1] for line in process.stdout if line.startswith("caller "))
            assert other != this_caller()
            assert not is_gone(other)
            process.kill()
        wait_for(lambda: is_gone(other))
        assert not is_gone(this_caller())
    finally:
        disconnect()


def answers(monkeypatch: pytest.MonkeyPatch, *given: Any) -> None:
    """Give the table of callers one answer after another, the last one for ever."""
    left = list(given)

    def jobs() -> list[dict[str, Any]]:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return [{"JobID": "another", "IsDead": True}, {"JobID": "mine", "IsDead": answer}]

    state = SimpleNamespace(_private=SimpleNamespace(state=SimpleNamespace(jobs=jobs)))
    monkeypatch.setattr(callers, "ray", state)
    monkeypatch.setattr(callers, "LOOK_SECONDS", 0.02)


def test_a_call_ends_with_its_caller_and_not_when_nobody_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, False, ray.exceptions.RpcError("the head is away"), False, True)
    with Call("mine") as call:
        call.check()
        wait_for(lambda: call.ended)
        with pytest.raises(Interrupted, match=r"its caller has gone.*--resume"):
            call.check()


@pytest.mark.parametrize("caller", ["mine", None], ids=["lives", "unknown"])
def test_a_call_goes_on_unless_somebody_ends_it(caller: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, False)
    with Call(caller) as call:
        time.sleep(0.1)
        assert not call.ended
        call.end("it was stopped")
        with pytest.raises(Interrupted, match="it was stopped"):
            call.check()
