"""Gates before our servers: one that is for this machine only, and one that asks for a token.

A browser names the page that asks in the header Origin, and the name it looked up in Host. Programs send no Origin.
Another site's page, or another site's name for this machine, gets nothing from either gate.
"""

import hmac
import re
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
COOKIE = "liveavatar"  # of the token
ADDRESS = re.compile(r"(?P<name>\[[0-9a-f:]+\]|[^:/@\s]+)(:(?P<port>\d+))?", re.IGNORECASE)
UNFRAMED = (b"content-security-policy", b"frame-ancestors 'self'")  # the strictest of several policies holds

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


def is_local(host: str, origin: str | None) -> bool:
    """Tell if a request names this machine, and comes from no page of another origin.

    Args:
        host: header Host.
        origin: header Origin, None where there is none.
    """
    port = _loopback_port(host)
    if port is None or origin is None:
        return port is not None
    return origin.startswith("http://") and _loopback_port(origin.removeprefix("http://")) == port


def _loopback_port(address: str) -> str | None:
    """Read the port of a loopback address, 80 where it names none; None for every other address."""
    found = ADDRESS.fullmatch(address)
    return (found["port"] or "80") if found and found["name"].lower() in LOOPBACK else None


def own_origins(port: int) -> str:
    """List the origins of this machine's own pages, as Prefect's settings take them."""
    return ",".join(f"http://{name}:{port}" for name in LOOPBACK)


class LoopbackGate:
    """ASGI application that passes only local requests on to another one; the others get status 403.

    A page of another origin may not show the answers in a frame either, where clicks meant for it would go.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""

        async def send_unframed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), UNFRAMED]
            await send(message)

        if scope["type"] == "lifespan" or _admits(scope):
            await self._app(scope, receive, send_unframed)
        else:
            await _refuse(scope, receive, send, 403, "this server is for this machine only")


class TokenGate:
    """ASGI application that passes requests with a token on to another one, from programs and from its own pages.

    A program sends the token as `Authorization: Bearer`. A browser is given it in the address `/?token=...` once, which
    answers with a cookie that no other site's page can send or read.
    """

    def __init__(self, app: App, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif not _is_own_page(scope):
            await _refuse(scope, receive, send, 403, "another site's page may not ask here")
        elif self._opens(_bearer(scope)) or self._opens(_cookie(scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == "/" and self._opens(_token_in_query(scope)):
            cookie = f"{COOKIE}={self._token}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000"
            headers = [(b"location", b"/"), (b"set-cookie", cookie.encode()), (b"referrer-policy", b"no-referrer")]
            await send({"type": "http.response.start", "status": 303, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
        else:
            await _refuse(scope, receive, send, 401, "open the address that `liveavatar serve` printed, with its token")

    def _opens(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())


async def _refuse(scope: Message, receive: Receive, send: Send, status: int, why: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": why.encode()})


def _admits(scope: Message) -> bool:
    hosts, origins = _header(scope, b"host"), _header(scope, b"origin")
    return len(hosts) == 1 and len(origins) <= 1 and is_local(hosts[0], origins[0] if origins else None)


def _is_own_page(scope: Message) -> bool:
    """Tell if a request comes from no page, or from one of the server that it names."""
    hosts, origins = _header(scope, b"host"), _header(scope, b"origin")
    if len(hosts) != 1 or len(origins) > 1:
        return False
    return not origins or origins[0].partition("://")[2] == hosts[0]


def _header(scope: Message, name: bytes) -> list[str]:
    return [value.decode("latin-1") for found, value in scope["headers"] if found.lower() == name]


def _bearer(scope: Message) -> str:
    kind, _, token = "".join(_header(scope, b"authorization")).partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def _cookie(scope: Message) -> str:
    try:
        found = SimpleCookie("; ".join(_header(scope, b"cookie"))).get(COOKIE)
    except CookieError:
        return ""
    return "" if found is None else found.value


def _token_in_query(scope: Message) -> str:
    query = urllib.parse.parse_qs(scope.get("query_string", b"").decode("latin-1"))
    return "".join(query.get("token", []))


def create_app() -> LoopbackGate:
    """Make Prefect's server behind the gate, for uvicorn."""
    from prefect.server.api.server import create_app as create_prefect

    return LoopbackGate(create_prefect())
