"""The gate of the servers: loopback names and their own pages pass, other sites get 403."""

import asyncio
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from flows.serving.gate import LoopbackGate, Message, Receive, Send, is_local, own_origins
from flows.serving.prefect_server import PrefectServer

HOST = "127.0.0.1:4200"


@pytest.mark.parametrize(
    ("host", "origin", "local"),
    [
        pytest.param(HOST, None, True, id="a program"),
        pytest.param("localhost:4200", "http://127.0.0.1:4200", True, id="our page, by either name"),
        pytest.param("[::1]:4200", "http://[::1]:4200", True, id="version 6"),
        pytest.param("localhost", "http://localhost:80", True, id="the usual port"),
        pytest.param(HOST, "http://evil.example", False, id="another site's page"),
        pytest.param(HOST, "http://127.0.0.1:8000", False, id="another server of this machine"),
        pytest.param(HOST, "https://127.0.0.1:4200", False, id="another scheme"),
        pytest.param(HOST, "null", False, id="a sandboxed page or a file"),
        pytest.param(HOST, "http://127.0.0.1:4200.evil.example", False, id="a name that begins like ours"),
        pytest.param(HOST, "http://127.0.0.1:4200@evil.example", False, id="a user name like ours"),
        pytest.param("evil.example:4200", None, False, id="another name for this machine"),
        pytest.param("evil.example:4200", "http://evil.example:4200", False, id="and its page"),
        pytest.param("127.0.0.1.evil.example", None, False, id="a host that begins like ours"),
        pytest.param("", None, False, id="no host"),
    ],
)
def test_only_this_machine_passes(host: str, origin: str | None, local: bool) -> None:
    assert is_local(host, origin) == local


def answer(kind: str, headers: list[tuple[bytes, bytes]]) -> list[Message]:
    """Messages that a gated application sends for one request."""
    sent: list[Message] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "passed"})

    async def receive() -> Message:
        return {"type": f"{kind}.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": kind, "headers": headers}
    asyncio.run(LoopbackGate(app)(scope, receive, send))
    return sent


@pytest.mark.parametrize("kind", ["http", "websocket", "lifespan"])
def test_own_requests_pass(kind: str) -> None:
    assert answer(kind, [(b"host", HOST.encode())]) == [{"type": "passed"}]


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([(b"host", HOST.encode()), (b"origin", b"http://evil.example")], id="origin"),
        pytest.param([(b"host", b"evil.example")], id="host"),
        pytest.param([], id="no host"),
        pytest.param([(b"host", HOST.encode()), (b"host", b"evil.example")], id="two hosts"),
    ],
)
def test_foreign_requests_are_refused(headers: list[tuple[bytes, bytes]]) -> None:
    assert answer("http", headers)[0]["status"] == 403
    assert answer("websocket", headers) == [{"type": "websocket.close", "code": 1008}]


def test_prefect_takes_our_own_origins() -> None:
    assert all(is_local(HOST, origin) for origin in own_origins(4200).split(","))


def status(url: str, **headers: str) -> int:
    """Status of a request that lists the deployments."""
    json = {"Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, b"{}", json | headers), timeout=20) as response:
            return int(response.status)
    except urllib.error.HTTPError as e:
        return e.code


@pytest.mark.nightly
def test_no_other_site_reaches_prefect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    for name in ("PREFECT_HOME", "PREFECT_API_URL"):
        monkeypatch.setenv(name, "")  # so that what is set meanwhile is gone afterwards
        monkeypatch.delenv(name)
    with PrefectServer() as server:
        server.wait()
        url = f"{server.url}/deployments/filter"
        assert status(url) == status(url, Origin=server.ui_url) == 200
        assert status(url, Origin="http://evil.example") == status(url, Host="evil.example") == 403
