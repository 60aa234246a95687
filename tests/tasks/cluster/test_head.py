"""The head of Ray: a cluster that does not answer, a slow start, the path of its workers."""

import ctypes
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.exceptions import RpcError

from liveavatar.errors import CapacityError
from liveavatar.paths import REPO_ROOT
from tasks.cluster import head, ray_folder
from tasks.cluster.head import HeadWatch
from tasks.cluster.interruption import Interruption
from tasks.cluster.supervision import HeadLost

SERVICES = import_module("ray._private.services")
GPUS = import_module("ray._private.accelerators.nvidia_gpu").NvidiaGPUAcceleratorManager


def test_nothing_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    started = time.monotonic()
    with pytest.raises(CapacityError, match=f"RAY_ADDRESS={address}: no Ray cluster answers there .*unset the var"):
        head.connect()
    assert time.monotonic() - started < 15


def test_a_slow_node_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([None, None, {"node": 1}])

    def get_node(*_: object) -> dict[str, int]:
        answer = next(answers)
        if answer is None:
            raise RuntimeError("no such node")
        return answer

    monkeypatch.setattr(head, "ASK_SECONDS", 0.0)
    monkeypatch.setattr(SERVICES, "get_node", get_node)
    with head.patience(60):
        assert SERVICES.get_node("gcs", "id") == {"node": 1}
    assert SERVICES.get_node is get_node


def test_a_busy_machine_gets_a_second_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_node(*_: object) -> None:
        raise RuntimeError("no such node")

    attempts: list[bool] = []

    def init(**_: object) -> None:
        attempts.append(True)
        SERVICES.get_node("gcs", "id")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(head, "START_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(SERVICES, "get_node", get_node)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(CapacityError, match=r"no local Ray could be started \(no node within 0 s\)"):
        head.RaySession().connect()
    assert len(attempts) == 2


def test_a_lost_gpu_does_not_keep_a_local_ray_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[object] = []

    def asks() -> None:
        raise RuntimeError("GPU is lost")  # as the driver's library does

    def init(**_: object) -> None:
        kinds.append(GPUS.get_current_node_accelerator_type())
        raise RpcError("that is enough")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(head, "START_SECONDS", (0.0,))
    monkeypatch.setattr(GPUS, "get_current_node_accelerator_type", staticmethod(asks))
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(CapacityError, match="that is enough"):
        head.RaySession().connect()
    assert kinds == [None]
    with pytest.raises(RuntimeError, match="GPU is lost"):
        GPUS.get_current_node_accelerator_type()


def test_an_error_of_ray_at_the_start_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise RpcError("RPC error: CANCELLED")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(CapacityError, match=r"no local Ray could be started \(RPC error: CANCELLED\)"):
        head.RaySession().connect()


@pytest.mark.parametrize("error", [RuntimeError, SystemError, ConnectionError])
def test_a_signal_while_ray_starts_is_no_refusal(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        import_module("ray._private.utils").set_sigterm_handler(signal.SIG_IGN)  # as Ray does first
        signal.raise_signal(signal.SIGTERM)
        raise error("the node did not start")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        head.RaySession().connect()
    assert signal.signal(signal.SIGTERM, before) is signal.default_int_handler


def test_a_local_ray_is_refused_where_its_folder_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was started"))
    monkeypatch.setattr(ray_folder, "ROOM_BYTES", 1 << 60)
    with pytest.raises(CapacityError, match=r"a local Ray needs .* TMPDIR"):
        head.RaySession().connect()


def test_workers_do_not_search_the_folder_of_the_caller() -> None:
    job = vars(head.own_job())
    assert job["_runtime_env_has_working_dir"]()
    assert job["_py_driver_sys_path"] == [str(REPO_ROOT)]


def test_an_interruption_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head.SESSION, "connect", lambda: "127.0.0.1:1")
    interruption = Interruption()
    watch = HeadWatch(interruption)
    watch.check()
    interruption.interrupt()
    with pytest.raises(KeyboardInterrupt):
        watch.check()


def test_a_call_that_waits_for_the_head_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ValueError("no such actor")

    monkeypatch.setattr(head.SESSION, "connect", lambda: "127.0.0.1:1")
    watch, forever = HeadWatch(Interruption()), threading.Event()
    assert watch.watched(lambda: "an actor") == "an actor"
    with pytest.raises(ValueError, match="no such actor"):
        watch.watched(fail)
    lost = threading.Timer(0.2, monkeypatch.setattr, (head.SESSION, "lost_process", lambda: "gcs_server"))
    lost.start()
    with pytest.raises(HeadLost, match="the gcs_server of the local Ray has ended"):
        watch.watched(forever.wait)
    with pytest.raises(HeadLost):
        watch.watched(fail)
    forever.set()


def test_the_ray_of_serve_is_replaced_whenever_it_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(head, "ASK_SECONDS", 0.0)
    monkeypatch.setattr(head.SESSION, "connect", lambda: "127.0.0.1:1")
    lost, ending, replaced = iter(["raylet", "gcs_server"]), threading.Event(), list[str]()
    monkeypatch.setattr(head.SESSION, "lost_process", lambda: next(lost, "") or ending.set() or "")
    monkeypatch.setattr(head, "listens", lambda *_: True)

    def replace(address: str, _: Interruption) -> str:
        assert "RAY_ADDRESS" not in os.environ, "the lost one would be joined again"
        return f"{address}{len(replaced)}"

    monkeypatch.setattr(head.SESSION, "replace", replace)
    head.keep_running(ending, replaced.append)
    assert replaced == ["127.0.0.1:10", "127.0.0.1:101"]
    assert os.environ["RAY_ADDRESS"] == replaced[-1]


def test_a_ray_of_serve_that_cannot_be_replaced_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def replace(address: str, _: Interruption) -> str:
        raise CapacityError("the disk is full")

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(head.SESSION, "connect", lambda: "127.0.0.1:1")
    monkeypatch.setattr(head.SESSION, "lost_process", lambda: "raylet")
    monkeypatch.setattr(head.SESSION, "replace", replace)
    head.keep_running(threading.Event(), lambda _: pytest.fail("nothing was replaced"))
    assert "the disk is full; renders start a Ray of their own" in caplog.text
    assert "RAY_ADDRESS" not in os.environ


def test_the_handler_of_sigterm_is_in_force_behind_a_replaced_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(*_: object) -> str:
        ctypes.pythonapi.PyOS_setsig(signal.SIGTERM, ctypes.c_void_p(int(signal.SIG_IGN)))
        return "127.0.0.1:2"

    came, before = list[int](), signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    monkeypatch.setattr(head.SESSION, "connect", lambda: "127.0.0.1:1")
    monkeypatch.setattr(head.SESSION, "replace", replace)
    try:
        head.HeadWatch(Interruption()).recover()
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [signal.SIGTERM]


@pytest.fixture
def local_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[psutil.Process]:
    """A local Ray of this process."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    yield psutil.Process()
    head.disconnect()


def kill_helper(driver: psutil.Process, word: str) -> None:
    """Kill the process that this one has started with a word in its command line."""
    running = [p for p in driver.children() if p.status() != psutil.STATUS_ZOMBIE]
    (victim,) = (p for p in running if any(word in part for part in p.cmdline()))
    victim.kill()
    while victim.status() != psutil.STATUS_ZOMBIE:  # until it is gone
        time.sleep(0.01)


def test_a_guardian_that_was_stopped_ends_with_its_driver() -> None:
    before = set(psutil.Process().children())
    guard = head.Guard()
    (process,) = set(psutil.Process().children()) - before
    process.suspend()
    guard.dismiss()
    assert not psutil.wait_procs([process], timeout=20)[1]


def listening(process: psutil.Process) -> list[Any]:
    """Return the sockets at which a process takes connections."""
    return [c for c in process.net_connections() if c.status == psutil.CONN_LISTEN]


@pytest.mark.slow
def test_the_loss_of_any_process_of_a_local_ray_is_noticed(
    local_ray: psutil.Process, caplog: pytest.LogCaptureFixture
) -> None:
    watch = HeadWatch(Interruption())
    watch.check()
    heard = {c.laddr.ip.removeprefix("::ffff:") for p in local_ray.children(True) for c in listening(p)}
    assert heard == {"127.0.0.1"}, "other machines do not reach it"
    assert head.listens_on_loopback_only(watch.address)
    kill_helper(local_ray, "guardian.py")
    _until(lambda: "the guardian of the local Ray was killed" in caplog.text, watch)
    kill_helper(local_ray, "guardian.py")  # there is another one
    kill_helper(local_ray, "/raylet/raylet")
    with pytest.raises(HeadLost, match="the raylet of the local Ray has ended"):
        _until(lambda: False, watch)
    before = watch.address
    watch.recover()
    assert watch.address != before
    watch.check()
    assert ray.get(ray.put(7)) == 7


def _until(condition: Callable[[], bool], watch: HeadWatch) -> None:
    """Look after the head until something is so, for some seconds."""
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        watch.check()
        time.sleep(0.1)
