"""The engine actor outside of Ray, and the host's calls to it with Ray played by a script."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError

from liveavatar.errors import CapacityError, InputError, Interrupted
from liveavatar.render.job import Progress
from tasks.cluster import actor, callers
from tasks.cluster.actor import ActorCalls, EngineActor, EngineSpec, actor_options, engine_actor, spec_name
from tasks.cluster.gpus import GpuLost
from tasks.cluster.head import connect, disconnect
from tasks.cluster.replicas import GpuTaken, NoGpuLeft, Replicas
from tasks.cluster.supervision import EngineLost

SPEC = EngineSpec(model_dir=Path("m"), version="0123456789abcdef" * 4, device="cpu", dtype="float32")
PROGRESS = Progress(phase="render", done=1, total=9, fps=1.0)


def job(digest: str, home: str = "home") -> Any:
    return SimpleNamespace(digest=digest, work_dir=Path(home) / digest)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> EngineActor:
    """An actor whose engine is a word, loaded by the library's function."""
    loads: list[dict[str, Any]] = []

    def load_engine(model_dir: Path, **options: Any) -> str:
        loads.append({"model_dir": model_dir, **options})
        return f"engine {len(loads)}"

    monkeypatch.setattr("liveavatar.load.load_engine", load_engine)
    monkeypatch.setattr(actor, "die_with_parent", lambda: None)
    made = EngineActor(replace(SPEC, fp8=True), torch.get_num_threads())
    made.loads = loads  # type: ignore[attr-defined]
    return made


def test_a_model_is_loaded_once_as_its_spec_says(engine: EngineActor) -> None:
    assert engine.load() >= 0
    engine.load()
    assert engine.loads == [  # type: ignore[attr-defined]
        {"model_dir": Path("m"), "device": "cpu", "dtype": "float32", "fp8": True, "offload": False}
    ]


def test_a_job_shows_its_progress_and_hears_when_it_is_to_stop(
    engine: EngineActor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def run_job(loaded: str, asked: Any, note: Any, stopped: Any) -> str:
        seen.append((loaded, engine.progress(asked.digest), stopped()))
        note(PROGRESS)
        engine.stop("another")
        seen.append((engine.progress(asked.digest), engine.progress("another"), stopped()))
        engine.stop(asked.digest)
        seen.append(stopped())
        return "result"

    monkeypatch.setattr("liveavatar.render.job.run_job", run_job)
    assert engine.render(job("d")) == "result"
    assert seen == [("engine 1", None, False), (PROGRESS, None, False), True]
    assert engine.progress("d") is None
    seen.clear()
    engine.render(job("d"))
    assert seen[0] == ("engine 1", None, False), "a later job with the same digest is not stopped"


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Have every job run until it is told to stop; the event is set once one runs."""
    running = threading.Event()

    def run_job(_: str, asked: Any, note: Any, stopped: Any) -> None:
        running.set()
        deadline = time.monotonic() + 20
        while not stopped():
            assert time.monotonic() < deadline, "nobody told it to stop"
            time.sleep(0.01)
        raise Interrupted("stopped at block 3 of 9")

    monkeypatch.setattr("liveavatar.render.job.run_job", run_job)
    return running


def test_a_job_ends_when_its_caller_is_gone_and_the_next_one_begins(
    engine: EngineActor, endless: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "LOOK_SECONDS", 0.02)
    gone: set[str] = set()
    monkeypatch.setattr(callers, "is_gone", lambda caller: caller in gone)
    with ThreadPoolExecutor() as threads:
        lost = threads.submit(engine.render, job("lost"), "killed")
        assert endless.wait(20)
        waiting = threads.submit(engine.render, job("waiting"), "killed")
        assert not wait([lost, waiting], timeout=0.2).done, "its caller lives"
        gone.add("killed")
        for ended in (lost, waiting):
            with pytest.raises(Interrupted):
                ended.result(20)
        assert engine.is_idle()


def test_a_job_that_another_caller_resumes_is_left_to_it(engine: EngineActor, endless: threading.Event) -> None:
    with ThreadPoolExecutor() as threads:
        lost = threads.submit(engine.render, job("d"))
        assert endless.wait(20)
        elsewhere = threads.submit(engine.render, job("d", "another home"))
        assert not wait([lost, elsewhere], timeout=0.2).done, "the same job of another user ends none"
        endless.clear()
        resumed = threads.submit(engine.render, job("d"))
        with pytest.raises(Interrupted):
            lost.result(20)
        assert endless.wait(20)
        engine.stop("d")
        for ended in (elsewhere, resumed):
            with pytest.raises(Interrupted):
                ended.result(20)


def test_an_error_of_a_job_leaves_the_actor_ready(engine: EngineActor, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str, asked: Any, note: Any, stopped: Any) -> None:
        note(PROGRESS)
        raise InputError("too large")

    monkeypatch.setattr("liveavatar.render.job.run_job", fail)
    with pytest.raises(InputError):
        engine.render(job("d"))
    assert engine.progress("d") is None
    monkeypatch.setattr("liveavatar.render.job.run_job", lambda *_: "result")
    assert engine.render(job("d")) == "result"


def fail_with(error: Exception) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


@pytest.mark.parametrize("call", ["load", "render", "serve"])
@pytest.mark.parametrize(
    ("error", "lost", "raised"),
    [
        pytest.param(RuntimeError("CUDA error"), True, GpuLost, id="the GPU is lost"),
        pytest.param(RuntimeError("a mistake"), False, RuntimeError, id="a mistake"),
        pytest.param(InputError("too large"), True, InputError, id="an error of the input"),
    ],
)
def test_a_lost_gpu_is_named(
    call: str,
    error: Exception,
    lost: bool,
    raised: type[Exception],
    engine: EngineActor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(actor, "gpu_lost", lambda: lost)
    fail = fail_with(error)
    monkeypatch.setattr("liveavatar.load.load_engine" if call == "load" else "liveavatar.render.job.run_job", fail)
    with pytest.raises(raised):
        {"load": engine.load, "render": lambda: engine.render(job("d")), "serve": lambda: engine.serve(fail)}[call]()


def test_an_engine_is_asked_about_its_gpu_while_it_renders(
    engine: EngineActor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def gpu_lost(seconds: float) -> bool:
        asked.append(seconds)
        return True

    monkeypatch.setattr(actor, "gpu_lost", gpu_lost)
    answers: list[bool] = []
    monkeypatch.setattr("liveavatar.render.job.run_job", lambda *_: answers.append(engine.gpu_hangs(7.0)))
    engine.render(job("d"))
    assert (answers, asked) == ([True], [7.0])


def test_a_model_that_finds_no_memory_is_refused(engine: EngineActor, monkeypatch: pytest.MonkeyPatch) -> None:
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 28.00 GiB.\nSee documentation")
    monkeypatch.setattr("liveavatar.load.load_engine", fail_with(full))
    with pytest.raises(CapacityError, match=r"no memory for the model.*28\.00 GiB\.\)$"):
        engine.load()


def test_jobs_are_rendered_one_after_the_other(engine: EngineActor, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = 0, 0
    begun = threading.Event()

    def run_job(*_: Any) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        begun.set()
        threading.Event().wait(0.05)
        running -= 1
        return "result"

    monkeypatch.setattr("liveavatar.render.job.run_job", run_job)
    threads = [threading.Thread(target=engine.render, args=(job(digest),)) for digest in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert begun.is_set()
    assert most == 1


def test_a_name_tells_specs_apart_that_need_processes_of_their_own() -> None:
    changes: list[dict[str, Any]] = [{}, {"fp8": True}, {"offload": True}, {"device": "cuda"}, {"dtype": "bfloat16"}]
    changes += [{"leave_gb": 6.0}]
    assert len({spec_name(replace(SPEC, **change)) for change in changes}) == len(changes)
    assert spec_name(replace(SPEC, model_dir=Path("elsewhere"))) == spec_name(SPEC)


@pytest.mark.parametrize(("device", "gpus", "reserved"), [("cpu", 2, 0), ("auto", 2, 1), ("cuda", 0, 0)])
def test_a_gpu_is_reserved_where_there_is_one(
    device: str, gpus: int, reserved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor, "num_gpus", lambda: gpus)
    monkeypatch.setattr(actor, "cores", lambda: 3)
    options = actor_options(replace(SPEC, device=device))
    assert options["num_gpus"] == reserved
    assert options["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "3"
    assert options["runtime_env"]["env_vars"]["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID", "as `nvidia-smi` and plans number"


def test_an_engine_answers_while_more_jobs_wait_than_it_has_threads() -> None:
    """Callers take an engine that does not answer for hung, and kill it with everyone's jobs."""
    connect()
    try:
        remote = actor.actor_class(EngineActor).options(num_cpus=0, max_concurrency=4)
        engine = remote.remote(SPEC, 1, lambda spec: time.sleep(600))
        assert ray.get(engine.is_idle.remote(), timeout=120)
        waiting = [engine.render.remote(job(f"{number}")) for number in range(6)]
        progress, process = ray.get([engine.progress.remote("0"), engine.node_and_pid.remote()], timeout=20)
        assert progress is None
        assert process.pid
        assert ray.wait(waiting, num_returns=len(waiting), timeout=0)[0] == []
        ray.kill(engine)
    finally:
        disconnect()


class FakeRay:
    """Ray whose answers are written down."""

    def __init__(self) -> None:
        self.killed: list[Any] = []
        self.waited: list[Any] = []

    def get(self, reference: Any) -> Any:
        return reference

    def kill(self, handle: Any) -> None:
        self.killed.append(handle)

    def wait(self, references: list[Any], timeout: float) -> None:
        self.waited.append(references)


@pytest.mark.parametrize(("replica", "ending"), [(0, ""), (2, "-2")])
def test_replicas_are_actors_of_their_own(replica: int, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def options(**given: Any) -> Any:
        asked.update(given)
        return SimpleNamespace(remote=lambda spec, threads: "handle")

    monkeypatch.setattr(actor, "actor_class", lambda _: SimpleNamespace(options=options))
    monkeypatch.setattr(actor, "num_gpus", lambda: 0)
    assert engine_actor(replace(SPEC, replica=replica)) == "handle"
    assert asked["name"] == f"engine-{spec_name(SPEC)}{ending}"
    assert (asked["get_if_exists"], asked["max_restarts"], asked["lifetime"]) == (True, -1, "detached")


@pytest.mark.parametrize(
    ("one_of_several", "free", "taken"),
    [(True, False, True), (True, True, False), (False, False, False)],
    ids=["one of several", "there is a GPU", "it has no other to wait for"],
)
def test_an_engine_whose_gpu_is_taken_is_not_waited_for(
    one_of_several: bool, free: bool, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    remote = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *given: started.append(given)))
    monkeypatch.setattr(actor, "actor_class", lambda _: remote)
    monkeypatch.setattr(actor.ray.util, "list_named_actors", list)
    monkeypatch.setattr(actor, "num_gpus", lambda: 2)
    monkeypatch.setattr(actor, "make_room", lambda _: None)
    monkeypatch.setattr(actor, "gpu_is_free", lambda: free)
    spec = replace(SPEC, device="auto", replica=1, one_of_several=one_of_several)
    if not taken:
        engine_actor(spec)
    else:
        with pytest.raises(GpuTaken, match="another job has the GPU"):
            engine_actor(spec)
    assert len(started) == (not taken)


class FakeProcess:
    killed = 0

    def kill(self) -> None:
        self.killed += 1


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> ActorCalls:
    """Calls to an actor that has answered, in a process that can be killed."""
    method = SimpleNamespace(remote=lambda *_: "reference")
    handle = SimpleNamespace(progress=method, load=method, node_and_pid=method)
    monkeypatch.setattr(actor, "engine_actor", lambda spec: handle)
    monkeypatch.setattr(actor, "ray", FakeRay())
    monkeypatch.setattr(actor, "await_results", lambda *_: None)
    process = FakeProcess()
    monkeypatch.setattr(actor, "results", lambda references, *_, **__: [1.5, process])
    made = ActorCalls(SPEC, SimpleNamespace())  # type: ignore[arg-type]
    made.process_of_test = process  # type: ignore[attr-defined]
    return made


def test_a_loaded_actor_tells_the_seconds_and_its_process_can_be_ended(calls: ActorCalls) -> None:
    assert calls.load() == 1.5
    calls.end()
    assert calls.process_of_test.killed == 1  # type: ignore[attr-defined]
    assert actor.ray.killed == [calls.actor]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("ended", "kills"), [(False, 1), (True, 0)], ids=["hangs", "has ended"])
def test_only_a_process_that_hangs_is_killed(
    ended: bool, kills: int, calls: ActorCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = SimpleNamespace(ended=lambda: ended, running="running")
    monkeypatch.setattr(actor, "RayJob", lambda *_: running)
    calls.recycle()
    calls.load()
    calls.begin(job("d"))
    calls.recycle()
    assert calls.process_of_test.killed == kills  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        pytest.param(GetTimeoutError("no answer"), NoGpuLeft, id="no process within the limit"),
        pytest.param(RayActorError(), EngineLost, id="it died"),
    ],
)
def test_an_actor_that_does_not_come_up_is_named(
    error: Exception, raised: type[Exception], calls: ActorCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    def await_results(*_: Any) -> None:
        raise error

    monkeypatch.setattr(actor, "await_results", await_results)
    with pytest.raises(raised):
        calls.load()


def test_a_batch_goes_on_without_an_engine_that_does_not_start(
    calls: ActorCalls, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another job has its GPU."""

    def await_results(*_: Any) -> None:
        raise GetTimeoutError("no answer")

    monkeypatch.setattr(actor, "await_results", await_results)
    replicas, tried = Replicas(2), list[int]()

    def job(number: int) -> float:
        tried.append(number)
        return calls.load() if number == 0 else 7.0

    assert [replicas.run(job) for _ in range(3)] == [7.0] * 3
    assert tried == [0, 1, 1, 1], "it is tried once"
    assert "did not start within 180 s; the batch goes on with 1 of its engines" in caplog.text


def test_an_actor_that_is_being_restarted_is_asked_again(calls: ActorCalls, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def await_results(*_: Any) -> None:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise ActorUnavailableError("restarting", None)

    monkeypatch.setattr(actor, "await_results", await_results)
    monkeypatch.setattr(actor.time, "sleep", lambda _: None)
    assert calls.load() == 1.5
    assert asked == 4, "twice refused, once answered, and the load itself"
