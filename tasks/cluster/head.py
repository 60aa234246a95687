"""The head of Ray: joined or started here, watched while a job runs, and replaced when a local one is lost.

Without `RAY_ADDRESS` a small local Ray is started, which ends with this process however that ends (`guardian`);
with it, that cluster is joined. When a local head is lost, what is left of its Ray is killed and another one resumes
the job. A cluster of others that is gone ends the command, resumable.
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
from tasks.cluster import guardian

log = logging.getLogger(__name__)

NAMESPACE = "liveavatar"
OBJECT_STORE_BYTES = 80_000_000  # frames and latents never travel through it
ASK_SECONDS = 0.5  # between two looks at the head
LOCAL_MISSES, JOINED_MISSES = 3, 40  # looks in vain after which it counts as lost; a head elsewhere may be restarted
KEEP_ENVIRONMENT = "SPT_NOENV"  # has processes that change their title leave their environment as it was
_replacing = threading.Lock()
_guardian: "subprocess.Popen[bytes] | None" = None  # of our own local Ray
_token = ""


class HeadLost(Exception):
    """The head of the cluster answers no more."""


class HeadWatch:
    """Notices within seconds that the head has gone."""

    def __init__(self) -> None:
        """Connect, and watch what we are connected to."""
        self.address = connect()
        self._asked, self._missed = 0.0, 0

    def check(self) -> None:
        """Look, if it is time to.

        Raises:
            HeadLost: several looks in a row were in vain.
        """
        now = time.monotonic()
        if now - self._asked < ASK_SECONDS:
            return
        self._asked = now
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=ASK_SECONDS).close()
        except OSError as e:
            self._missed += 1
            if self._missed >= (LOCAL_MISSES if _guardian else JOINED_MISSES):
                raise HeadLost(f"the head of Ray at {self.address} answers no more") from e
        else:
            self._missed = 0

    def recover(self) -> None:
        """After `HeadLost`: be connected to another local Ray.

        Raises:
            Interrupted: the cluster was not ours to start again.
        """
        with _replacing:
            if ray.is_initialized() and _address() == self.address:
                joined = _guardian is None
                if not joined:
                    guardian.end_marked(_token)
                shut_down()
                if joined:
                    raise Interrupted(
                        f"the Ray cluster at {self.address} is gone; start it again and run the same command with "
                        "--resume, or unset RAY_ADDRESS"
                    )
        log.warning("the head of Ray was lost; another one resumes from the last snapshot")
        self.__init__()  # type: ignore[misc]


def connect() -> str:
    """Be connected: to the cluster at `RAY_ADDRESS`, else to a local one that ends with this process.

    Returns:
        The cluster's address.

    Raises:
        CapacityError: no cluster answers there, or no local one can be started.
    """
    if ray.is_initialized():
        return _address()
    address = os.environ.get("RAY_ADDRESS")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.nullcontext() if address else _marked():
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
        where = f"no Ray cluster answers at {address}" if address else "no local Ray could be started"
        reason = str(e).strip().splitlines()[0]
        raise CapacityError(f"{where} ({reason}); see `liveavatar doctor`") from e
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler would end us without a word
    return _address()


def shut_down() -> None:
    """Leave the cluster; a local one ends, with every process it started."""
    if ray.is_initialized():
        ray.shutdown()
    _dismiss()


def _address() -> str:
    return str(ray.get_runtime_context().gcs_address)


@contextlib.contextmanager
def _marked() -> Iterator[None]:
    """Have the processes started inside carry a mark, and a guardian that ends them when this process is gone."""
    global _guardian, _token
    _token = secrets.token_hex(8)
    environment = {k: v for k, v in os.environ.items() if k != guardian.MARK}
    _guardian = subprocess.Popen(
        [sys.executable, "-I", str(guardian.__file__), _token],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=environment, start_new_session=True,  # Ctrl-C is for us
    )  # fmt: skip
    added = {guardian.MARK: _token, KEEP_ENVIRONMENT: "1"}
    os.environ.update(added)
    try:
        yield
    except BaseException:
        _dismiss()
        raise
    finally:
        for name in added:
            os.environ.pop(name, None)


def _dismiss() -> None:
    """Have the guardian do its work now."""
    global _guardian
    process, _guardian = _guardian, None
    if process is not None and process.stdin is not None:
        process.stdin.close()
        threading.Thread(target=process.wait, daemon=True).start()
