"""Gate before the servers of this machine: another site's page, or another site's name for this machine, gets nothing.

A browser names the page that asks in the header Origin, and the name it looked up in Host. Programs send no Origin.
"""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
ADDRESS = re.compile(r"(?P<name>\[[0-9a-f:]+\]|[^:/@\s]+)(:(?P<port>\d+))?", re.IGNORECASE)

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
    """ASGI application that passes only local requests on to another one; the others get status 403."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] == "lifespan" or _admits(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"this server is for this machine only"})


def _admits(scope: Message) -> bool:
    headers = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]
    hosts = [value for name, value in headers if name == b"host"]
    origins = [value for name, value in headers if name == b"origin"]
    return len(hosts) == 1 and len(origins) <= 1 and is_local(hosts[0], origins[0] if origins else None)


def create_app() -> LoopbackGate:
    """Make Prefect's server behind the gate, for uvicorn."""
    from prefect.server.api.server import create_app as create_prefect

    return LoopbackGate(create_prefect())
