"""Records in Prefect: made when the server answers, left out when it does not, never an error of the run."""

import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from prefect.exceptions import ObjectNotFound

from tasks.bookkeeping import answers, recorded


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port of this machine where nothing listens; `PREFECT_API_URL` names it."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        number = int(unused.getsockname()[1])
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{number}/api")
        yield number


def test_nothing_is_recorded_where_no_server_answers(port: int) -> None:
    made: list[bool] = []
    started = time.monotonic()
    assert recorded(lambda: made.append(True)) is None
    assert time.monotonic() - started < 5
    assert not made


def test_a_server_that_comes_back_is_waited_for(port: int) -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

        def come_back() -> None:
            time.sleep(0.5)
            server.listen()

        server.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=come_back)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.getsockname()[1]}/api")
            thread.start()
            assert not answers()
            assert answers(wait_s=20)
            assert recorded(lambda: 7) == 7
        thread.join()


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("refused"), ObjectNotFound(KeyError("flow run")), ConnectionResetError()], ids=repr
)
def test_a_record_that_fails_is_left_out(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise error

    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert recorded(fail) is None
