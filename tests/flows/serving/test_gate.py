"""The gate of the servers: loopback names and their own pages pass, other sites get 403."""

import asyncio
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from flows.serving.gate import COOKIE, App, LoopbackGate, Message, Receive, Send, TokenGate, is_local, own_origins
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


async def behind(scope: Message, receive: Receive, send: Send) -> None:
    """Application behind a gate."""
    await send({"type": "passed"})


def answer(
    kind: str, headers: list[tuple[bytes, bytes]], gate: App | None = None, query: bytes = b"", path: str = "/"
) -> list[Message]:
    """Messages that a gated application sends for one request."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": f"{kind}.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": kind, "headers": headers, "path": path, "query_string": query}
    asyncio.run((gate or LoopbackGate(behind))(scope, receive, send))
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


def test_no_other_page_shows_ours_in_a_frame() -> None:
    """A click into a frame that nobody sees would start a run."""

    async def page(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
        await send({"type": "http.response.body", "body": b"page"})

    start, body = answer("http", [(b"host", HOST.encode())], LoopbackGate(page))
    assert start["headers"][1:] == [(b"content-security-policy", b"frame-ancestors 'self'")]
    assert body["body"] == b"page"


TOKEN = "a-long-random-token"
AWAY = (b"host", b"studio.example:4280")
OWN = (b"origin", b"http://studio.example:4280")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param([AWAY, (b"authorization", f"Bearer {TOKEN}".encode())], None, id="a program"),
        pytest.param([AWAY, OWN, (b"cookie", f"x=1; {COOKIE}={TOKEN}".encode())], None, id="our page"),
        pytest.param([AWAY], 401, id="nothing"),
        pytest.param([(b"host", HOST.encode())], 401, id="this machine's name is no token"),
        pytest.param([AWAY, (b"authorization", b"Bearer other")], 401, id="another token"),
        pytest.param([AWAY, (b"authorization", b"Bearer ")], 401, id="an empty token"),
        pytest.param([AWAY, (b"authorization", f"Basic {TOKEN}".encode())], 401, id="another scheme"),
        pytest.param([AWAY, (b"cookie", f"{COOKIE}={TOKEN}x".encode())], 401, id="another cookie"),
        pytest.param([AWAY, (b"cookie", b"\xff;;=")], 401, id="a damaged cookie"),
        pytest.param(
            [AWAY, (b"origin", b"http://evil.example"), (b"cookie", f"{COOKIE}={TOKEN}".encode())], 403,
            id="another site's page",
        ),
        pytest.param([AWAY, (b"origin", b"null"), (b"cookie", f"{COOKIE}={TOKEN}".encode())], 403, id="a sandbox"),
        pytest.param([AWAY, AWAY, (b"cookie", f"{COOKIE}={TOKEN}".encode())], 403, id="two hosts"),
    ],
)  # fmt: skip
def test_beyond_this_machine_a_token_opens(headers: list[tuple[bytes, bytes]], status: int | None) -> None:
    sent = answer("http", headers, TokenGate(behind, TOKEN))
    assert sent[0] == {"type": "passed"} if status is None else sent[0]["status"] == status
    socket = answer("websocket", headers, TokenGate(behind, TOKEN))
    assert socket[0]["type"] == ("passed" if status is None else "websocket.close")


def test_the_address_with_the_token_sets_a_cookie_and_leaves_the_address() -> None:
    gate = TokenGate(behind, TOKEN)
    opened = answer("http", [AWAY], gate, query=f"token={TOKEN}".encode())
    headers = dict(opened[0]["headers"])
    assert (opened[0]["status"], headers[b"location"]) == (303, b"/")
    assert b"HttpOnly; SameSite=Strict" in headers[b"set-cookie"]
    cookie = headers[b"set-cookie"].partition(b";")[0]
    assert answer("http", [AWAY, (b"cookie", cookie)], gate) == [{"type": "passed"}]
    assert answer("http", [AWAY], gate, query=b"token=wrong")[0]["status"] == 401
    assert answer("http", [AWAY], gate, query=f"token={TOKEN}".encode(), path="/api/jobs")[0]["status"] == 401
    assert answer("lifespan", [], gate) == [{"type": "passed"}]


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
