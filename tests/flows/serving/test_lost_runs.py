"""Runs whose process is gone: which state they get, and real ones after kill -9 of what `serve` consists of."""

import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import numpy as np
import psutil
import pytest
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.states import Cancelling, Completed, Crashed, Failed, Pending, Running, Scheduled, State
from scipy.io import wavfile

from flows.render import render
from flows.serving import lost_runs
from flows.serving.lost_runs import LOST, UNKNOWN_SECONDS, WAY, go_on, note_run, resumed, settle, settle_quietly
from liveavatar.files import read_json, write_json
from liveavatar.hardware import free_port
from tests.flows.shop import Shop

OLD = datetime.now(UTC) - timedelta(seconds=2 * UNKNOWN_SECONDS)


class Server:
    """Runs as Prefect keeps them, and what becomes of them."""

    def __init__(self, *runs: FlowRun) -> None:
        self.runs = {run.id: run for run in runs}
        self.states: dict[UUID, State[Any]] = {}
        self.parameters: dict[UUID, dict[str, Any]] = {}
        self.stage = TaskRun(id=uuid4(), task_key="render", dynamic_key="0", state=Running())
        self.stages: dict[UUID, State[Any]] = {}

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read_flow_runs(self, *, flow_run_filter: Any, flow_filter: Any = None, limit: int = 200) -> list[FlowRun]:
        if flow_filter is not None:
            return [run for run in self.runs.values() if run.state and not run.state.is_final()][:limit]
        if flow_run_filter.parent_flow_run_id is not None:
            return []
        return [self.runs[run_id] for run_id in flow_run_filter.id.any_ if run_id in self.runs]

    def read_task_runs(self, **_: Any) -> list[TaskRun]:
        return [self.stage]

    def update_flow_run(self, run_id: UUID, *, parameters: dict[str, Any]) -> None:
        self.parameters[run_id] = parameters

    def set_flow_run_state(self, run_id: UUID, state: State[Any], *, force: bool) -> None:
        self.states[run_id] = state

    def set_task_run_state(self, task_id: UUID, state: State[Any], *, force: bool) -> None:
        self.stages[task_id] = state


def run(state: State[Any], **facts: Any) -> FlowRun:
    given = {"parameters": {"parameters": {"audio": "a.wav"}}, "run_count": 1, **facts}
    return FlowRun(id=uuid4(), flow_id=uuid4(), name="voice-face-1", state=state, state_type=state.type, **given)


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    return tmp_path / "run" / "flows"


@pytest.fixture
def serve_runs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Server]:
    def serve_runs(*runs: FlowRun) -> Server:
        server = Server(*runs)
        monkeypatch.setattr(lost_runs, "get_client", lambda **_: server)
        return server

    return serve_runs


def lose(notes: Path, *runs: FlowRun) -> None:
    """Note runs whose process is gone."""
    for one in runs:
        note_run(render, one, Running())
        path = notes / f"{one.id}.json"
        write_json(path, read_json(path) | {"created": 1.0})


CASES = [
    pytest.param(Running(), {"deployment_id": uuid4()}, ("SCHEDULED", "Resuming", LOST), id="served: resumed"),
    pytest.param(Pending(), {"deployment_id": uuid4()}, ("SCHEDULED", "Resuming", LOST), id="pending: resumed"),
    pytest.param(Running(), {"deployment_id": uuid4(), "run_count": 3}, ("CRASHED", "Crashed", WAY), id="thrice"),
    pytest.param(Running(), {}, ("CRASHED", "Crashed", WAY), id="command"),
    pytest.param(Cancelling(), {"deployment_id": uuid4()}, ("CANCELLED", "Cancelled", LOST), id="cancelled"),
    pytest.param(Crashed(message="exit code -9."), {}, ("CRASHED", "Crashed", f"exit code -9; {WAY}"), id="crashed"),
    pytest.param(Crashed(message=f"gone; {WAY}"), {}, None, id="crashed, told already"),
    pytest.param(Completed(), {}, None, id="completed"),
    pytest.param(Failed(), {"deployment_id": uuid4()}, None, id="failed"),
]


@pytest.mark.parametrize(("state", "facts", "expected"), CASES)
def test_a_lost_run_gets_its_state(
    notes: Path, serve_runs: Callable[..., Server], state: State[Any], facts: dict[str, Any],
    expected: tuple[str, str, str] | None,
) -> None:  # fmt: skip
    lost = run(state, **facts)
    server = serve_runs(lost)
    lose(notes, lost)
    lines = settle()
    assert list(notes.iterdir()) == []
    if expected is None:
        assert (lines, server.states, server.stages) == ([], {}, {})
        return
    new = server.states[lost.id]
    assert (new.type.value, new.name) == expected[:2]
    assert expected[2] in str(new.message)
    assert lines == [f"run voice-face-1: {new.message}"]
    assert server.stages[server.stage.id].is_crashed()
    assert (server.parameters == {lost.id: {"parameters": {"audio": "a.wav", "resume": True}}}) == new.is_scheduled()


def test_a_run_goes_on_under_its_own_record(notes: Path, serve_runs: Callable[..., Server]) -> None:
    crashed = run(Crashed(), deployment_id=uuid4(), run_count=5)
    server = serve_runs(crashed)
    lose(notes, crashed)
    with lost_runs.get_client() as client:
        go_on(client, crashed)
    assert (server.states[crashed.id].name, server.states[crashed.id].is_scheduled()) == ("Resuming", True)
    assert server.parameters == {crashed.id: {"parameters": {"audio": "a.wav", "resume": True}}}
    server.states.clear()
    assert (settle(), server.states) == ([], {}), "it is not lost a second time"


def test_runs_of_living_processes_and_of_other_machines_stay(notes: Path, serve_runs: Callable[..., Server]) -> None:
    living, elsewhere, part = run(Running()), run(Running()), run(Running(), parent_task_run_id=uuid4())
    server = serve_runs(living, elsewhere, part)
    for one in (living, part):
        note_run(render, one, Running())
    lose(notes, elsewhere)
    path = notes / f"{elsewhere.id}.json"
    write_json(path, read_json(path) | {"host": "another"})
    assert (settle(), server.states) == ([], {})
    assert {note.stem for note in notes.iterdir()} == {str(living.id), str(elsewhere.id)}


def test_a_run_that_the_server_does_not_know_is_kept_for_the_one_that_does(
    notes: Path, serve_runs: Callable[..., Server]
) -> None:
    lost = run(Running())
    serve_runs()
    lose(notes, lost)
    assert settle() == []
    assert [note.stem for note in notes.iterdir()] == [str(lost.id)]


def test_our_own_server_has_no_run_at_work_for_long_without_a_note(
    notes: Path, serve_runs: Callable[..., Server]
) -> None:
    old, young = run(Running(timestamp=OLD)), run(Pending())
    server = serve_runs(old, young)
    assert settle() == []
    settle(unknown=True)
    assert list(server.states) == [old.id]


def test_a_server_that_is_gone_changes_nothing(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(**_: Any) -> Any:
        raise httpx.ConnectError("gone")

    monkeypatch.setattr(lost_runs, "get_client", gone)
    lose(notes, run(Running()))
    settle_quietly()
    assert len(list(notes.iterdir())) == 1


def test_every_render_of_a_resumed_run_continues() -> None:
    jobs = {"jobs": [{"audio": "a"}, {"audio": "b"}], "out": "o"}
    assert resumed(jobs) == {
        "jobs": [{"audio": "a", "resume": True}, {"audio": "b", "resume": True}],
        "out": "o",
    }
    assert resumed({"golden": "g"}) == {"golden": "g"}
    assert Scheduled(name="Resuming").is_scheduled()


def ask(api: str, path: str, **body: Any) -> Any:
    request = urllib.request.Request(f"{api}/{path}", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def until(condition: Callable[[], Any], seconds: float = 240) -> Any:
    """Wait for something true, whatever a server that restarts answers meanwhile, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if found := condition():
                return found
        except OSError:
            pass
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.2)


@contextmanager
def serving(shop: Shop, port: int) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        shop.command("serve", "--port", str(port), "--live_port", str(free_port())), cwd=shop.folder,
        env=shop.environment(), text=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.wait(120)


def victims(serve: psutil.Process, name: str) -> psutil.Process:
    """Find the process of `serve` that is to be killed."""
    mark = {"worker": "prefect.engine", "server": "flows.serving.gate:create_app"}
    if name == "serve":
        return serve
    found = [p for p in serve.children(recursive=True) if any(mark[name] in part for part in p.cmdline())]
    return found[0]


@pytest.mark.nightly
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("name", "end"),
    [
        pytest.param("serve", "ended well", id="serve: resumed by the next one"),
        pytest.param("worker", "Crashed", id="worker: Crashed, and how to resume"),
        pytest.param("server", "ended well", id="server: the run goes on"),
        pytest.param("stop", "ended well", id="liveavatar stop: resumed by the next one"),
    ],
)
def test_no_run_stays_running(shop: Shop, name: str, end: str) -> None:
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    work = shop.folder / "home/work"
    rate, sound = wavfile.read(shop.folder / "voice.wav")
    wavfile.write(shop.folder / "long.wav", rate, np.tile(sound, 8))  # it is rendered for longer than `stop` takes
    options = dict(zip(*[iter(shop.job(audio="long.wav", out=str(shop.folder / "out" / name)))] * 2, strict=True))
    job: dict[str, Any] = {option.removeprefix("--"): value for option, value in options.items()}
    job = {
        **job,
        **{part: str(shop.folder / job[part]) for part in ("audio", "image")},
        "seed": ["serve", "worker", "server", "stop"].index(name),
    }
    before = set(work.glob("*/snapshots/*.safetensors"))

    def state() -> dict[str, Any]:
        return dict(ask(api, "flow_runs/filter", flow_runs={"id": {"any_": [started["id"]]}})[0]["state"])

    with serving(shop, port) as serve:
        deployed = until(lambda: [row for row in ask(api, "deployments/filter") if row["name"] == "render"])
        address = f"deployments/{deployed[0]['id']}/create_flow_run"
        started = until(lambda: ask(api, address, parameters={"parameters": job}, idempotency_key=name))
        until(lambda: set(work.glob("*/snapshots/*.safetensors")) - before)
        if name == "stop":
            shop.run("stop")
        else:
            victims(psutil.Process(serve.pid), name).send_signal(signal.SIGKILL)
        if name in ("serve", "stop"):
            serve.wait(120)
        else:
            until(lambda: state()["type"] in ("COMPLETED", "FAILED") or WAY in (state()["message"] or ""))
    with serving(shop, port):
        until(lambda: state()["type"] in ("COMPLETED", "FAILED") or WAY in (state()["message"] or ""))
        ended = state()
        at_work = ask(api, "flow_runs/filter", flow_runs={"state": {"type": {"any_": ["RUNNING", "PENDING"]}}})
        assert at_work == []
    if end == "Crashed":
        assert (ended["name"], WAY in ended["message"]) == ("Crashed", True), ended["message"]
    else:
        assert ended["message"].startswith(("failed: ", "warned: ", "passed: ")), ended
        assert (shop.folder / "out" / name / "video.mp4").is_file()
