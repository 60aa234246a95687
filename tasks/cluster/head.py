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
from collections.abc import Iterator

import ray

from liveavatar.errors import CapacityError, Interrupted
from liveavatar.hardware import cores
from tasks.cluster import guardian, interruption
from tasks.cluster.supervision import HeadLost

log = logging.getLogger(__name__)

NAMESPACE = "liveavatar"
OBJECT_STORE_BYTES = 80_000_000  # frames and latents never travel through it
ASK_SECONDS = 0.5  # between two looks at the head
LOCAL_MISSES, JOINED_MISSES = 3, 40  # failed looks after which it counts as lost; a head elsewhere may be restarted
KEEP_ENVIRONMENT = "SPT_NOENV"  # has processes that change their title leave their environment as it was


class Guard:
    """The guardian process of one local Ray: it kills that Ray's processes when this process is gone."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(8)
        environment = {k: v for k, v in os.environ.items() if k != guardian.MARK}
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(guardian.__file__), self.token],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=environment, start_new_session=True,  # Ctrl-C is for us
        )  # fmt: skip

    @contextlib.contextmanager
    def marking(self) -> Iterator[None]:
        """Have the processes started inside carry the mark; if starting fails, kill them."""
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

    def dismiss(self) -> None:
        """Make the guardian kill the marked processes now."""
        assert self._process.stdin is not None
        self._process.stdin.close()
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

    def connect(self) -> str:
        """Connect to the cluster at `RAY_ADDRESS`, else to a local one that ends with this process.

        Returns:
            The cluster's address.

        Raises:
            CapacityError: no cluster answers there, or no local one can be started.
        """
        if ray.is_initialized():
            return _address()
        address = os.environ.get("RAY_ADDRESS")
        on_sigterm = signal.getsignal(signal.SIGTERM)
        self._guard = None if address else Guard()
        try:
            with self._guard.marking() if self._guard else contextlib.nullcontext():
                ray.init(
                    address=address or "local",
                    namespace=NAMESPACE,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    num_cpus=None if address else cores(),
                    include_dashboard=None if address else False,
                    object_store_memory=None if address else OBJECT_STORE_BYTES,
                )
        except (ConnectionError, RuntimeError, OSError, TimeoutError) as e:
            self._guard = None
            where = f"no Ray cluster answers at {address}" if address else "no local Ray could be started"
            reason = str(e).strip().splitlines()[0]
            raise CapacityError(f"{where} ({reason}); see `liveavatar doctor`") from e
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler would end us without a word
        return _address()

    def disconnect(self) -> None:
        """Leave the cluster; a local one ends, with every process it started."""
        if ray.is_initialized():
            ray.shutdown()
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.dismiss()

    def replace(self, lost: str) -> str:
        """Connect to another local Ray than the one at the address `lost`; return the new address.

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
                    raise Interrupted(
                        f"the Ray cluster at {lost} is gone; start it again and run the same command with "
                        "--resume, or unset RAY_ADDRESS"
                    )
        return self.connect()


SESSION = RaySession()  # Ray's own connection is one a process, too


class HeadWatch:
    """Notices within seconds that the head has gone. See `supervision.ClusterHead`."""

    def __init__(self) -> None:
        """Connect, and watch that head."""
        self._watch(SESSION.connect())

    def _watch(self, address: str) -> None:
        self.address, self._looked_at, self._missed = address, 0.0, 0

    def check(self) -> None:
        """Look whether the head is there, unless the last look was just now.

        Raises:
            HeadLost: several looks in a row failed.
        """
        now = time.monotonic()
        if now - self._looked_at < ASK_SECONDS:
            return
        self._looked_at = now
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=ASK_SECONDS).close()
        except OSError as e:
            self._missed += 1
            if self._missed >= (LOCAL_MISSES if SESSION.local else JOINED_MISSES):
                raise HeadLost(f"the head of Ray at {self.address} answers no more") from e
        else:
            self._missed = 0

    def recover(self) -> None:
        """Watch another local Ray, after `HeadLost`.

        Raises:
            Interrupted: the cluster was not ours to start again.
        """
        address = SESSION.replace(self.address)
        log.warning("the head of Ray was lost; another one resumes from the last snapshot")
        self._watch(address)


def connect() -> str:
    """Connect this process to Ray (`RaySession.connect`)."""
    return SESSION.connect()


def disconnect() -> None:
    """Leave the cluster and let jobs run again after an interruption."""
    interruption.forget()
    SESSION.disconnect()


def num_gpus() -> float:
    """Count the GPUs of the cluster."""
    return float(ray.cluster_resources().get("GPU", 0))


def _address() -> str:
    return str(ray.get_runtime_context().gcs_address)
