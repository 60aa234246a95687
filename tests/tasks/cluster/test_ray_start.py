"""Start of a local Ray whose head is lost, or that never ends: given up with a line, and made again."""

import signal
import threading
from importlib import import_module
from types import SimpleNamespace

import pytest
import ray

from liveavatar.errors import CapacityError
from tasks.cluster import head, ray_start
from tasks.cluster.supervision import HeadLost

SERVICES = import_module("ray._private.services")


@pytest.mark.parametrize("kind", ["gcs_server", "raylet"])
def test_a_start_that_lost_its_head_is_left_behind(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    forever, attempts = threading.Event(), list[bool]()

    def init(**_: object) -> None:
        attempts.append(True)
        SERVICES.start_ray_process(["a program"], kind)
        forever.wait()  # as Ray does

    ended = SimpleNamespace(process=SimpleNamespace(poll=lambda: -signal.SIGTERM))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_start, "FAIL_SECONDS", 0.0)
    monkeypatch.setattr(SERVICES, "start_ray_process", lambda *_: ended)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(CapacityError, match=rf"no local Ray could be started \(its {kind} has ended\)"):
        head.RaySession().connect()
    assert len(attempts) == len(head.START_SECONDS)
    assert f"the local Ray did not start (its {kind} has ended); it is started again" in caplog.text
    monkeypatch.setattr(head, "ATTEMPTS_LIMIT", 0.0)
    with pytest.raises(CapacityError):
        head.RaySession().connect()
    assert len(attempts) == len(head.START_SECONDS) + 1, "there is no other attempt after the limit"
    forever.set()


def test_a_start_that_was_left_behind_starts_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts, again, refused = list[bool](), threading.Event(), threading.Event()

    def init(**_: object) -> None:
        attempts.append(True)
        if len(attempts) == 1:
            SERVICES.start_ray_process(["a program"], "gcs_server")
            again.wait()
            try:
                SERVICES.start_ray_process(["a program"], "raylet")
            except HeadLost:
                refused.set()
        again.set()
        refused.wait(20)
        raise OSError("the second attempt")

    ended = SimpleNamespace(process=SimpleNamespace(poll=lambda: 0))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_start, "FAIL_SECONDS", 0.0)
    monkeypatch.setattr(SERVICES, "start_ray_process", lambda *_: ended)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(CapacityError, match="the second attempt"):
        head.RaySession().connect()
    assert refused.is_set()


def test_a_start_has_a_line_and_an_end(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    forever = threading.Event()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_start, "SILENT_SECONDS", 0.0)
    monkeypatch.setattr(ray_start, "START_LIMIT", 1.0)
    monkeypatch.setattr(head, "START_SECONDS", (1.0, 1.0))
    monkeypatch.setattr(ray, "init", lambda **_: forever.wait())
    with pytest.raises(CapacityError, match="it did not start within 1 s"):
        head.RaySession().connect()
    assert caplog.text.count("waits for the local Ray to start (at most 1 s)") == 2
    forever.set()
