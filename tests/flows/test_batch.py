"""A batch with several engines: its threads heed Ctrl-C, wherever they wait."""

import signal
import threading
import time
from pathlib import Path
from types import FrameType

import pytest
from prefect.exceptions import TerminationSignal

from flows import batch
from liveavatar.errors import InputError, Interrupted
from tasks.cluster.replicas import Replicas
from tasks.store.store import Store


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TerminationSignal(signal.SIGTERM)], ids=["Ctrl-C", "cancelled"])
def test_a_thread_that_waits_for_another_command_ends_with_the_batch(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
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

    def end(_: int, __: FrameType | None) -> None:
        raise error

    def interrupt() -> None:
        while not made or "waiting for it" not in caplog.text:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    monkeypatch.setattr("tasks.store.store.NOTICE_SECONDS", 0.1)
    monkeypatch.setattr(batch.head, "connect", lambda: "")
    monkeypatch.setattr(batch, "render_flow", lambda replicas: replicas)
    monkeypatch.setattr(batch, "render_one", one)
    others = [threading.Thread(target=target, daemon=True) for target in (another_command, interrupt)]
    before = signal.signal(signal.SIGUSR1, end)
    others[0].start()
    assert held.wait(20)
    others[1].start()
    try:
        with pytest.raises(type(error)):
            batch.render_side_by_side({0: {"key": "taken"}, 3: {"key": "free"}}, 2, lambda *_: None)
        assert not released.is_set(), "it waited until the other command had ended"
    finally:
        signal.signal(signal.SIGUSR1, before)
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


def stopped(cause: type[BaseException]) -> Interrupted:
    """Make the error of a job whose engine was told to stop while `cause` was handled."""
    try:
        try:
            raise cause
        except cause as e:
            raise Interrupted("stopped at block 4 of 22") from e
    except Interrupted as error:
        return error


def test_ctrl_c_ends_the_batch_and_not_the_job_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "read_parameters", lambda job: job)
    monkeypatch.setattr(batch, "outcome_of", lambda *_: stopped(KeyboardInterrupt))
    with pytest.raises(Interrupted, match="stopped at block 4"):
        batch.render_one({"out": "a"})
    monkeypatch.setattr(batch, "outcome_of", lambda *_: stopped(ConnectionError))
    assert batch.render_one({"out": "a"})["exit_code"] == Interrupted.exit_code, "the other jobs are rendered"


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        pytest.param([], "jobs is empty", id="no job"),
        pytest.param(
            [{"audo": "a.wav", "image": "a.png", "prompt": "a man"}], "audo.*did you mean audio", id="misspelt"
        ),
        pytest.param([{"what": {"audo": "a.wav"}}], "audo.*did you mean audio", id="misspelt in a group of the form"),
    ],
)
def test_a_table_from_the_form_is_refused_as_on_the_command_line(
    jobs: list[dict[str, object]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        batch.batch.fn(jobs, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_jobs_are_counted_from_one_wherever_people_read_it(capsys: pytest.CaptureFixture[str]) -> None:
    refused = {"job": 1, "out": "out/b/1", "status": "refused", "exit_code": 2, "reason": "no sound"}
    batch.announce({1: InputError("no sound")}, 2)
    assert batch.print_outcomes([refused], as_json=False) == 2
    told = capsys.readouterr().err.splitlines()
    assert "job 2/2 is refused: no sound" in told[0]
    assert told[1].split() == ["2", "refused", "out/b/1", "no", "sound"]
    assert "job 2 refused: no sound" in batch.batch_state([refused]).message
