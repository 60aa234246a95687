"""Records in Prefect, beside a run: no render waits for the server that keeps them, or ends with it."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import httpx
from prefect.exceptions import PrefectException

from tasks.health import is_healthy, on_loopback

T = TypeVar("T")

ANSWER_SECONDS = 2.0
PAUSE_SECONDS = 0.25
RETURN_SECONDS = 60.0  # for a server that was lost to come back, at the end of a run


def recorded(make: Callable[[], T], wait_s: float = 0.0) -> T | None:
    """Make a record and return it; None when no server answers within so many seconds, or it refuses."""
    if not answers(wait_s):
        return None
    with suppress(PrefectException, httpx.HTTPError, OSError):
        return make()
    return None


def answers(wait_s: float = 0.0) -> bool:
    """Tell whether a server of this machine answers within so many seconds; True for any other."""
    url = os.environ.get("PREFECT_API_URL", "")
    if not on_loopback(url):
        return True  # one behind a proxy cannot be asked so
    deadline = time.monotonic() + wait_s
    while not is_healthy(url, ANSWER_SECONDS):
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE_SECONDS)
    return True
