"""A batch with several engines: its threads heed Ctrl-C, wherever they wait."""

import signal
import threading
import time
from pathlib import Path

import pytest

from flows import batch
from tasks.cluster.replicas import Replicas
from tasks.store.store import Store


def test_a_thread_that_waits_for_another_command_ends_with_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, made = Store(tmp_path), []
    held, released = threading.Event(), threading.Event()

    def one(job: dict[str, str], replicas: Replicas) -> dict[str, str]:
        check = replicas.interruption.check
        store.build("render", job["key"], lambda _: made.append(job["key"]) or {}, while_waiting=check)
        return job

    def another_command() -> None:
        with store.lock("render", "taken"):
            held.set()
            released.wait(20)
        released.set()

    def ctrl_c() -> None:
        while not made or "waiting for it" not in caplog.text:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    monkeypatch.setattr("tasks.store.store.NOTICE_SECONDS", 0.1)
    monkeypatch.setattr(batch.head, "connect", lambda: "")
    monkeypatch.setattr(batch, "render_flow", lambda replicas: replicas)
    monkeypatch.setattr(batch, "render_one", one)
    others = [threading.Thread(target=target, daemon=True) for target in (another_command, ctrl_c)]
    others[0].start()
    assert held.wait(20)
    others[1].start()
    try:
        with pytest.raises(KeyboardInterrupt):
            batch.render_side_by_side({0: {"key": "taken"}, 3: {"key": "free"}}, 2, lambda *_: None)
        assert not released.is_set(), "it waited until the other command had ended"
    finally:
        released.set()
        for thread in others:
            thread.join(20)
    assert made == ["free"]


def test_a_reason_of_many_checks_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = {"eyes": "no face", "mouth": "no face", "black": "0 % of the frames"}
    checks = [{"name": name, "status": "failed", "reason": reason} for name, reason in reasons.items()]
    monkeypatch.setattr(batch, "read_parameters", lambda job: job)
    monkeypatch.setattr(batch, "outcome_of", lambda *_: {"status": "failed", "report": {"checks": checks}})
    assert batch.render_one({"out": "a"})["reason"] == "no face; 0 % of the frames"
