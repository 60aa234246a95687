"""The head of Ray: joined or started here, watched while a job runs, and replaced when a local one is lost.

Without `RAY_ADDRESS` a small local Ray is started, which ends with this process however that ends (`guardian`);
with it, that cluster is joined. When a local head is lost, the rest of its Ray is killed and another one resumes
the job. The loss of a joined cluster ends the command, which can be resumed.
"""

import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import ray
from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager
from ray.exceptions import RayError
from ray.job_config import JobConfig

from liveavatar import paths
from liveavatar.errors import CapacityError, Interrupted
from liveavatar.hardware import cores, listens
from tasks.cluster import guardian, ray_folder, served
from tasks.cluster.address import cluster_address
from tasks.cluster.interruption import Interruption, c_handlers_kept, signals_interrupt
from tasks.cluster.ray_start import VITAL, fulfil, replaced, start_ray
from tasks.cluster.supervision import HeadLost

log = logging.getLogger(__name__)
T = TypeVar("T")

NAMESPACE = "liveavatar"
OBJECT_STORE_BYTES = 80_000_000  # frames and latents never travel through it
LOOPBACK = "127.0.0.1"
ASK_SECONDS = 0.5  # between two looks at the head
LOCAL_MISSES, JOINED_MISSES = 3, 40  # failed looks after which it counts as lost; a head elsewhere may be restarted
START_SECONDS = (30.0, 180.0, 180.0, 180.0, 180.0)  # for a local Ray to come up, at each attempt
ATTEMPTS_LIMIT = 400.0  # seconds after which there is no other attempt
STOP_SECONDS, LOCAL_STOP_SECONDS = 60.0, 0.5  # to an interrupted job's next block; a local engine ends with us anyway
KEEP_ENVIRONMENT = "SPT_NOENV"  # has processes that change their title leave their environment as it was


class Guard:
    """The guardian process of one local Ray: it kills that Ray's processes when this process is gone."""

    def __init__(self, token: str = "", dismissed: threading.Event | None = None) -> None:
        """Start it.

        Args:
            token: of the mark; that of a guardian that was killed, or a new one.
            dismissed: set when this Ray ends; that of the guardian that was killed.
        """
        self.token = token or secrets.token_hex(8)
        self.dismissed = dismissed or threading.Event()
        environment = {k: v for k, v in os.environ.items() if k != guardian.MARK}
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(guardian.__file__), self.token],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=environment, start_new_session=True,  # Ctrl-C is for us
        )  # fmt: skip

    @contextlib.contextmanager
    def marking(self) -> Iterator[None]:
        """Mark the processes started inside; if starting fails, kill them."""
        marks = {guardian.MARK: self.token, KEEP_ENVIRONMENT: "1"}
        os.environ.update(marks)
        try:
            yield
        except BaseException:
            self.dismiss()
            raise
        finally:
            for name in marks:
                os.environ.pop(name, None)

    @property
    def gone(self) -> bool:
        """True when somebody killed the guardian."""
        return self._process.poll() is not None

    def dismiss(self) -> None:
        """Make the guardian kill the marked processes now."""
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)  # one that was stopped would stay for ever
        self._process.stdin.close()
        self.dismissed.set()
        threading.Thread(target=self._process.wait, daemon=True).start()


class RaySession:
    """The connection of this process to Ray, which has one at most."""

    def __init__(self) -> None:
        self._guard: Guard | None = None  # of a local Ray
        self._replacing = threading.Lock()

    @property
    def local(self) -> bool:
        """True when this process started the Ray."""
        return self._guard is not None

    def lost_process(self) -> str:
        """Name a process without which the local Ray does nothing and that has ended; empty when there is none."""
        node: Any = ray._private.worker._global_node
        ended = node.dead_processes() if self.local and node is not None else []
        return next((kind for kind, _ in ended if kind in VITAL), "")

    def require_room(self) -> None:
        """Refuse to start another engine where the local Ray has no room for its files (`ray_folder.require_room`)."""
        if self.local:
            ray_folder.require_room()

    def keep_guarded(self) -> None:
        """Start another guardian when the one of the local Ray was killed."""
        guard = self._guard
        if guard is not None and guard.gone:
            log.warning("the guardian of the local Ray was killed; another one takes its place")
            self._guard = Guard(guard.token, guard.dismissed)

    def connect(self) -> str:
        """Connect to the cluster at `RAY_ADDRESS`, else to a local one that ends with this process.

        Returns:
            The cluster's address.

        Raises:
            CapacityError: no cluster answers there, or no local one can be started.
        """
        if ray.is_initialized():
            return _address()
        ray._private.worker.print_to_stdstream = _to_log
        address = cluster_address(ask_cluster)
        try:
            with signals_interrupt(Interruption()), without_handler():
                if address:
                    self._guard = None
                    with on_loopback() if listens_on_loopback_only(address) else contextlib.nullcontext():
                        ray.init(address=address, **_common())
                else:
                    self._start()
        except (ConnectionError, RuntimeError, OSError, RayError, HeadLost) as e:
            self._guard = None
            where = f"no Ray cluster answers at {address}" if address else "no local Ray could be started"
            raise CapacityError(f"{where} ({_first_line(e)}); see `liveavatar doctor`") from e
        return _address()

    def _start(self) -> None:
        """Start a local Ray; a machine that is too busy for it gets more time at the second attempt."""
        ray_folder.require_room()
        deadline = time.monotonic() + ATTEMPTS_LIMIT
        for attempt, seconds in enumerate(START_SECONDS, 1):
            self._guard = Guard()
            try:
                with self._guard.marking(), patience(seconds), on_loopback(), without_kind_of_gpu():
                    start_ray(_local(), self._guard.dismissed)
                return
            except (TimeoutError, RayError, HeadLost) as e:
                if attempt == len(START_SECONDS) or time.monotonic() > deadline:
                    raise
                log.warning("the local Ray did not start (%s); it is started again with more time", _first_line(e))

    def disconnect(self) -> None:
        """Leave the cluster; a local one ends, with every process it started."""
        if ray.is_initialized():
            ray.shutdown()
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.dismiss()

    def replace(self, lost: str, interruption: Interruption) -> str:
        """Connect to another local Ray than the one at the address `lost`; return the new address.

        A cluster of `liveavatar serve` is started again there, and joined here.

        Raises:
            Interrupted: the cluster was not ours to start again.
        """
        with self._replacing:
            if ray.is_initialized() and _address() == lost:
                guard = self._guard
                if guard is not None:
                    guardian.end_marked(guard.token)
                self.disconnect()
                if guard is None:
                    os.environ["RAY_ADDRESS"] = served.successor(lost, interruption)
        return self.connect()


def ask_cluster(address: str) -> None:
    """Put a question to the cluster at an address; of a `ray://` one a connection says enough.

    Raises:
        RuntimeError: it is no cluster of Ray.
    """
    raylet: Any = ray._raylet
    if "://" not in address:
        try:
            raylet.GcsClient(address=address)
        except RayError as e:
            raise RuntimeError(_first_line(e)) from e


def patience(seconds: float) -> contextlib.AbstractContextManager[None]:
    """Make Ray wait so long for the node that it starts inside; its own 30 s are not enough on a busy machine.

    Raises:
        TimeoutError: the node did not come up.
    """
    services: Any = ray._private.services
    get_node, deadline = services.get_node, time.monotonic() + seconds

    def wait_for_node(*args: Any) -> Any:
        while True:
            try:
                return get_node(*args)
            except RuntimeError as e:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no node within {seconds:.0f} s") from e
            time.sleep(ASK_SECONDS)

    return replaced(services, "get_node", wait_for_node)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def without_handler() -> contextlib.AbstractContextManager[None]:
    """Make Ray leave the handler of SIGTERM as it is inside: its own would end us without a word, with exit code 1."""
    return replaced(ray._private.utils, "set_sigterm_handler", lambda _: None)


def without_kind_of_gpu() -> contextlib.AbstractContextManager[None]:
    """Make Ray not ask for the kind of the first GPU inside: where that GPU is lost, the answer would end the start."""
    return replaced(NvidiaGPUAcceleratorManager, "get_current_node_accelerator_type", staticmethod(lambda: None))


def on_loopback() -> contextlib.AbstractContextManager[None]:
    """Make Ray leave 127.0.0.1 as it is inside: else it takes an address of this machine that others reach."""
    return replaced(ray._private.services, "resolve_ip_for_localhost", lambda host: host)


def listens_on_loopback_only(address: str) -> bool:
    """Tell whether a cluster takes connections at 127.0.0.1 but not at this machine's other address, as ours do."""
    host, _, port = address.rpartition(":")
    return host == LOOPBACK and port.isdigit() and not listens(_outer_address(), int(port), ASK_SECONDS)


def _outer_address() -> str:
    """Find the address by which other machines reach this one; that of the loopback where there is no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 1))  # sends nothing; an address of documentation
        return str(probe.getsockname()[0])
    return LOOPBACK


def _to_log(data: Any, ignore_prefix: bool) -> Any:
    """Take what Ray would print on the terminal about a process that was lost, with pages of its own log."""
    log.debug("%s", "\n".join(data["lines"]))


def own_job() -> JobConfig:
    """Make a job whose workers do not search the folder of the caller for modules, which Ray would put first."""
    job: Any = JobConfig(_py_driver_sys_path=[str(paths.REPO_ROOT)] if paths.is_checkout() else [])
    job._runtime_env_has_working_dir = lambda: True  # only then it leaves that folder out
    return job


def _local() -> dict[str, Any]:
    return {
        "address": "local",
        "num_cpus": cores(),
        "include_dashboard": False,
        "_node_ip_address": LOOPBACK,
        "object_store_memory": OBJECT_STORE_BYTES,
        "_temp_dir": ray_folder.short_folder(),
        **_common(),
    }


def _common() -> dict[str, Any]:
    return {
        "namespace": NAMESPACE,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "job_config": own_job(),
    }


SESSION = RaySession()  # Ray's own connection is one a process, too


class HeadWatch:
    """Notices within seconds that the head has gone, or at once an interruption. See `supervision.ClusterHead`."""

    def __init__(self, interruption: Interruption | None = None) -> None:
        """Connect, and watch that head.

        Args:
            interruption: of jobs in threads; Ctrl-C itself ends a job in the main thread.
        """
        self.interruption = interruption or Interruption()
        self._watch(SESSION.connect())

    @property
    def stop_seconds(self) -> float:
        """Seconds that an interrupted job may take to its next block."""
        return LOCAL_STOP_SECONDS if SESSION.local else STOP_SECONDS

    def _watch(self, address: str) -> None:
        self.address, self._looked_at, self._missed = address, 0.0, 0

    def check(self) -> None:
        """Look whether the head is there, unless the last look was just now.

        Raises:
            HeadLost: several looks in a row failed, or a process of a local Ray has ended.
            KeyboardInterrupt: the job was interrupted.
        """
        self.interruption.check()
        now = time.monotonic()
        if now - self._looked_at < ASK_SECONDS:
            return
        self._looked_at = now
        SESSION.keep_guarded()
        ended = SESSION.lost_process()
        if ended:
            raise HeadLost(f"the {ended} of the local Ray has ended")
        host, _, port = self.address.rpartition(":")
        self._missed = 0 if listens(host, int(port), ASK_SECONDS) else self._missed + 1
        if self._missed >= (LOCAL_MISSES if SESSION.local else JOINED_MISSES):
            raise HeadLost(f"the head of Ray at {self.address} answers no more")

    def watched(self, call: Callable[[], T]) -> T:
        """Return the result of a call that waits for the head; Ray itself would wait for a minute for one that is lost.

        Raises:
            HeadLost: the head is not there.
            KeyboardInterrupt: the job was interrupted.
        """
        self.check()
        answer: Future[T] = Future()
        threading.Thread(target=fulfil, args=(answer, call), daemon=True).start()
        while not answer.done():
            wait([answer], timeout=ASK_SECONDS)
            self.check()
        if answer.exception() is not None:
            self._looked_at = 0.0
            self.check()
        return answer.result()

    def recover(self) -> None:
        """Watch another local Ray, after `HeadLost`.

        Raises:
            Interrupted: the cluster was not ours to start again.
        """
        with c_handlers_kept():  # leaving a cluster sets them to what they were before Python started
            address = SESSION.replace(self.address, self.interruption)
        log.warning("the local Ray was lost; another one resumes from the last snapshot")
        self._watch(address)


def keep_running(ending: threading.Event, on_replaced: Callable[[str], None]) -> None:
    """Replace the local Ray whenever it is lost, until `ending` is set; `on_replaced` gets each new address."""
    watch = HeadWatch(Interruption())
    while not ending.wait(ASK_SECONDS):
        try:
            watch.check()
        except HeadLost as e:
            log.warning("%s", e)
            os.environ.pop("RAY_ADDRESS", None)  # that of the lost one
            try:
                watch.recover()
            except (CapacityError, Interrupted) as problem:
                log.warning("%s; renders start a Ray of their own", problem)
                return
            os.environ["RAY_ADDRESS"] = watch.address
            on_replaced(watch.address)


def connect() -> str:
    """Connect this process to Ray (`RaySession.connect`)."""
    return SESSION.connect()


def disconnect() -> None:
    """Leave the cluster (`RaySession.disconnect`)."""
    SESSION.disconnect()


def num_gpus() -> float:
    """Count the GPUs of the cluster."""
    return float(ray.cluster_resources().get("GPU", 0))


def _address() -> str:
    return str(ray.get_runtime_context().gcs_address)
