"""Start of a local Ray that ends in any case: when its head is lost meanwhile, calls of Ray itself wait for ever."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import ray
from ray.experimental import internal_kv

from liveavatar.errors import Interrupted
from tasks.cluster.supervision import HeadLost

log = logging.getLogger(__name__)
T = TypeVar("T")

VITAL = ("gcs_server", "raylet")  # without which a Ray does nothing, as it names its processes
ASK_SECONDS = 0.5  # between two looks at them
SILENT_SECONDS = 15.0  # of waiting without a line
START_LIMIT = 240.0  # for a start
FAIL_SECONDS = 3.0  # for a call of Ray to notice that its head has ended


@contextlib.contextmanager
def noted_processes() -> Iterator[Callable[[], str]]:
    """Note the processes of the local Ray that is started inside.

    Yields:
        a function that names one without which this Ray does nothing and that has ended; empty when there is none.
    """
    services: Any = ray._private.services
    own, noted = services.start_ray_process, list[tuple[str, Any]]()

    def start(command: Any, kind: str, *args: Any, **options: Any) -> Any:
        info = own(command, kind, *args, **options)
        noted.append((kind, info.process))
        return info

    def ended() -> str:
        return next((kind for kind, process in noted if kind in VITAL and process.poll() is not None), "")

    with replaced(services, "start_ray_process", start):
        yield ended


def start_ray(options: dict[str, Any], end: threading.Event) -> None:
    """Start a local Ray and connect to it, in a thread: a call of Ray never returns once its head has ended.

    Args:
        options: of `ray.init`.
        end: of this Ray, whose processes the kernel kills with the thread that started them.

    Raises:
        HeadLost: a process ended meanwhile, or it takes too long. The thread is left behind.
        Interrupted: this was too late to start another Ray in this process.
    """
    answer: Future[Any] = Future()

    def start() -> None:
        fulfil(answer, lambda: ray.init(**options))
        end.wait()

    thread = threading.Thread(target=start, daemon=True)
    with noted_processes() as ended:
        thread.start()
        lost = _lost_start(answer, ended)
    if answer.done():
        error = answer.exception()
        if isinstance(error, Exception) and ended():
            raise HeadLost(f"its {ended()} has ended") from error
        answer.result()
        return
    if ray._private.worker._global_node is not None:
        raise Interrupted(f"the local Ray was lost as the command joined it ({lost}); run the same command again")
    _disarm(thread)
    raise HeadLost(lost)


def _lost_start(answer: "Future[Any]", ended: Callable[[], str]) -> str:
    """Wait for the start of a local Ray; return why it was lost, empty when there is an answer."""
    started, told = time.monotonic(), False
    while not answer.done():
        wait([answer], timeout=ASK_SECONDS)
        waited = time.monotonic() - started
        if waited > START_LIMIT:
            return f"it did not start within {START_LIMIT:.0f} s"
        if process := ended():
            wait([answer], timeout=FAIL_SECONDS)
            return f"its {process} has ended"
        if waited > SILENT_SECONDS and not told:
            told = True
            log.warning("waits for the local Ray to start (at most %.0f s)", START_LIMIT)
    return ""


def _disarm(thread: threading.Thread) -> None:
    """Keep a thread that waits for a lost Ray from changing the next one, should it wake up."""
    for module, name in ((ray._private.services, "start_ray_process"), (internal_kv, "_initialize_internal_kv")):
        own = getattr(module, name)

        def refuse(*args: Any, own: Callable[..., Any] = own, **options: Any) -> Any:
            if threading.current_thread() is thread:
                raise HeadLost("another local Ray was started meanwhile")
            return own(*args, **options)

        setattr(module, name, refuse)


@contextlib.contextmanager
def replaced(module: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Replace a function of a module, or of a class, of Ray inside."""
    own = vars(module)[name]
    setattr(module, name, function)
    try:
        yield
    finally:
        setattr(module, name, own)


def fulfil(answer: "Future[T]", call: Callable[[], T]) -> None:
    """Put the result of a call, or its error, into a future."""
    try:
        answer.set_result(call())
    except BaseException as e:  # noqa: BLE001 (raised where the answer is awaited)
        answer.set_exception(e)
