"""Health of servers: found in so many seconds, whatever a server does with a connection."""

import socket
import threading
import time
from http.server import HTTPServer

import pytest

from tasks.health import is_healthy, on_loopback
from tests.health_server import answering


@pytest.mark.parametrize("status", [200, 204, 404, 500])
def test_only_a_good_answer_is_healthy(status: int) -> None:
    with HTTPServer(("127.0.0.1", 0), answering(status)) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert is_healthy(f"http://127.0.0.1:{server.server_port}/api", 10) == (status == 200)
        thread.join()


def test_a_server_that_takes_connections_and_says_nothing_is_not_healthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        assert not is_healthy(f"http://127.0.0.1:{silent.getsockname()[1]}/api", 0.2)
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:4200/api", True),
        ("http://localhost:4200/api", True),
        ("http://[::1]:4200/api", True),
        ("https://prefect.example.org/api", False),
        ("", False),
    ],
)
def test_servers_of_this_machine_are_known_by_their_address(url: str, here: bool) -> None:
    assert on_loopback(url) == here
