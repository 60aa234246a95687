"""Health of Prefect servers: whether one answers, in so many seconds. Imports nothing of Prefect."""

import urllib.parse
import urllib.request
from http.client import HTTPException

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_healthy(url: str, seconds: float) -> bool:
    """Return True when a Prefect server answers in so many seconds; one on this machine is asked without a proxy."""
    proxies = [urllib.request.ProxyHandler({})] if on_loopback(url) else []
    try:
        with urllib.request.build_opener(*proxies).open(f"{url}/health", timeout=seconds) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError, HTTPException):
        return False


def on_loopback(url: str) -> bool:
    """Tell whether the address of a server is one of this machine's own."""
    return urllib.parse.urlsplit(url).hostname in LOOPBACK
