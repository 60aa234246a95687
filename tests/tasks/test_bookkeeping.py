"""Records in Prefect: made when the server answers, left out when it does not, never an error of the run."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import HTTPServer

import httpx
import pytest
from prefect.exceptions import ObjectNotFound

from tasks.bookkeeping import answers, recorded
from tests.health_server import answering


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


def test_nothing_is_recorded_where_a_server_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bool] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/api")
        started = time.monotonic()
        assert recorded(lambda: made.append(True)) is None
    assert time.monotonic() - started < 5
    assert not made


def test_a_server_that_comes_back_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), answering(), bind_and_activate=False) as server:
        server.server_bind()
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")

        def come_back() -> None:
            time.sleep(0.5)
            server.server_activate()
            for _ in range(2):
                server.handle_request()

        thread = threading.Thread(target=come_back)
        assert not answers()
        thread.start()
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
