"""The surroundings of a run: settings of Prefect and Ray, and our own folders. Import before either of them.

Prefect and Ray read environment variables when they are imported. What the user has set stays; what is missing
is set so that a run touches nothing outside `liveavatar.paths.home()` and reports nothing to anybody.
"""

import contextlib
import os
import secrets
from pathlib import Path

from liveavatar import paths

DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the terminal has our own lines; the UI keeps all
    "PREFECT_LOGGING_EXTRA_LOGGERS": "liveavatar,tasks",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # the engine also logs outside flows
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",  # our store keeps the bytes; Prefect holds digests
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
STORE_DAYS = 60.0


def prepare() -> Path:
    """Set what the user has not set and return our Prefect home."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_HOME", str(paths.prefect_home()))
    return Path(os.environ["PREFECT_HOME"])


def guard_ray() -> None:
    """Have our own Ray ask for a token that only this user can read; a cluster of the user's keeps its own rules."""
    if any(name in os.environ for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        return
    path = paths.ray_token()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        whole = path.with_name(f"{path.name}.{os.getpid()}")  # another command may read the token at any moment
        descriptor = os.open(whole, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):
            os.link(whole, path)
        whole.unlink()
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}


def store_limits() -> tuple[int, float]:
    """Return the size limit of the artefact store in bytes, and days after which an unused entry is dropped."""
    return paths.store_bytes(), STORE_DAYS
