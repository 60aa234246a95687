"""Environment of a run: settings of Prefect, Ray and Python, and our own folders. Import before Prefect and Ray.

Prefect and Ray read environment variables when they are imported. A run touches nothing outside
`liveavatar.paths.home()`, reports nothing to anybody, and does not depend on the folder it is started in. Settings of
the user's Prefect count only together with a server of the user's, `PREFECT_API_URL`, and those of Ray with a cluster
of the user's, `RAY_ADDRESS`.
"""

import contextlib
import os
import re
import secrets
import warnings
from pathlib import Path

from flows.search_path import entries, leave_out_relative
from liveavatar import paths
from liveavatar.files import read_bytes
from tasks.health import LOOPBACK

DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the terminal has our own lines; the UI keeps all
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # of what it reports when its server is lost
    "PREFECT_LOGGING_EXTRA_LOGGERS": "liveavatar,tasks",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # the engine also logs outside flows
    "PREFECT_API_REQUEST_TIMEOUT": "15",  # seconds of a server that hangs, at each of several tries
    "PREFECT_SERVER_API_MAX_PARAMETER_SIZE": "200000000",  # bytes: a table of jobs is a parameter of its flow
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_RUNNER_POLL_FREQUENCY": "2",  # seconds in which `serve` notices a run that was started
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",  # our store keeps the bytes; Prefect holds digests
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
STORE_DAYS = 60.0
JOINED_RETRIES = "2"  # of a request to a server that nobody here replaces when it hangs
GRPC_TRACES = ("GRPC_TRACE", "GRPC_VERBOSITY")  # they write the token of Ray to the terminal
HEAD_SETTING = "RAY_gcs_rpc_server_reconnect_timeout_s"
USED_RAY_VARIABLES = (  # of the user's; the others count only with a cluster of the user's
    *("RAY_ADDRESS", "RAY_TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_CLIENT_MODE"),
    HEAD_SETTING,  # ours
)
HEAD_SECONDS = 100_000_000  # that Ray waits for a lost head before it ends the process
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "wss_proxy")
PYTHON_SETTINGS = (
    *("PYTHONWARNINGS", "PYTHONOPTIMIZE", "PYTHONINSPECT", "PYTHONDEVMODE", "PYTHONVERBOSE", "PYTHONDEBUG"),
    *("PYTHONPROFILEIMPORTTIME", "PYTHONTRACEMALLOC"),
)
LIBRARY_SETTINGS = re.compile(  # of libraries that we bring along, for other programs that use them
    "OTEL_.*|UVICORN_.*|WEB_CONCURRENCY|FORWARDED_ALLOW_IPS|TORCH_LOGS|TORCH_TRACE|OPENCV_.*|MPLBACKEND|FFREPORT"
)
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
NEUTRAL_FOLDER = Path(__file__).parent  # holds no settings of anybody


def prepare() -> Path:
    """Set the environment of this process and of those it starts; return our Prefect home."""
    own = not os.environ.get("PREFECT_API_URL")
    ignore_library_settings()
    if own:
        for name in [name for name in os.environ if is_of_prefect(name)]:
            del os.environ[name]
    if os.environ.get("RAY_ADDRESS", "").strip() in ("", "local"):
        for name in ray_settings():  # Ray ends with a segmentation fault where one is no number
            del os.environ[name]
        for name in GRPC_TRACES:
            os.environ.pop(name, None)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    home = Path(os.environ.get("PREFECT_HOME", paths.prefect_home())).absolute()
    os.environ["PREFECT_HOME"] = str(home)
    if own:
        os.environ["PREFECT_PROFILES_PATH"] = str(_own_profiles(home))
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    direct = [host.strip() for host in listed.split(",") if host.strip()]
    if "*" not in direct:
        direct += [host for host in LOOPBACK if host not in direct]
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(direct)
    # Prefect makes its home only in a folder that is there; a plan needs none, and a server makes its own.
    warnings.filterwarnings("ignore", message="Failed to create the Prefect home directory")
    _search_safely()
    return home


def ignore_python_settings() -> None:
    """Drop settings of Python that are meant for other programs, here and for all processes started from here.

    With `PYTHONWARNINGS=error` a warning of any library would end a render, and with `PYTHONOPTIMIZE=2`, which leaves
    docstrings out, Ray does not start.
    """
    if os.environ.get("PYTHONWARNINGS"):
        warnings.resetwarnings()
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
    for name in PYTHON_SETTINGS:
        os.environ.pop(name, None)


def library_settings() -> list[str]:
    """List the variables that change what a library of ours does for all programs."""
    return sorted(name for name in os.environ if LIBRARY_SETTINGS.fullmatch(name))


def ignore_library_settings() -> None:
    """Drop settings of libraries that are meant for other programs, here and for all processes started from here.

    A name that OpenTelemetry does not know (`OTEL_PROPAGATORS=b3`) ends a program that imports Prefect, as a wrong
    number does one that imports OpenCV; uvicorn would start several servers over one database (`WEB_CONCURRENCY=4`),
    or listen elsewhere.
    """
    for name in library_settings():
        del os.environ[name]


def import_prefect() -> None:
    """Prepare the environment and import Prefect, which reads `prefect.toml`, `.env` and `pyproject.toml` of the
    working directory meanwhile: without a server of the user's it finds none.
    """
    home = prepare()
    own = os.environ.get("PREFECT_PROFILES_PATH") == str(_own_profiles(home))
    with contextlib.chdir(NEUTRAL_FOLDER) if own else contextlib.nullcontext():
        import prefect.main  # noqa: F401


def use_loopback() -> None:
    """Drop proxies and certificates, which no server on this machine needs: Prefect's HTTP client fails on a kind of
    proxy that it does not speak and on a missing certificate file, although no request would use them.
    """
    for name in [name for name in os.environ if _disturbs_loopback(name)]:
        del os.environ[name]


def expect_silence() -> None:
    """Make requests to a server of the user's give up after tens of seconds, where nobody has set how often
    they are repeated.
    """
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", JOINED_RETRIES)


def server_environment(home: Path, url: str, *, ui: bool) -> dict[str, str]:
    """Make the environment of our own Prefect server: of Prefect's settings only ours.

    Args:
        home: folder of its database.
        url: of its API.
        ui: whether it serves its pages.
    """
    ours = {name: value for name, value in DEFAULTS.items() if name.startswith("PREFECT_")}
    ours |= {"PREFECT_HOME": str(home), "PREFECT_PROFILES_PATH": str(_own_profiles(home))}
    ours |= {"PREFECT_API_URL": url, "PREFECT_UI_API_URL": url}
    if not ui:
        ours |= {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT_UI_ENABLED": "0"}
    kept = {name: value for name, value in os.environ.items() if not _disturbs_loopback(name)}
    return {name: value for name, value in kept.items() if not is_of_prefect(name)} | ours


def ray_settings() -> list[str]:
    """List the variables that change a Ray beyond where it is and how it is joined."""
    return sorted(name for name in os.environ if name.startswith("RAY_") and name not in USED_RAY_VARIABLES)


def is_of_prefect(name: str) -> bool:
    """Tell if Prefect reads a variable, which it does in upper and lower case."""
    return name.upper().startswith("PREFECT_")


def _disturbs_loopback(name: str) -> bool:
    return name.lower() in PROXIES or name in CERTIFICATES


def _own_profiles(home: Path) -> Path:
    """Name a file of Prefect profiles in our home, which does not exist."""
    return home / "profiles.toml"


def _search_safely() -> None:
    """Keep the working directory out of the search for modules, here and in all processes started from here.

    A file of the user's such as `random.py` or `tasks.py` would be imported in place of the one that is meant.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    leave_out_relative()
    first = [str(paths.REPO_ROOT)] if paths.is_checkout() else []
    safe = [*first, *(entry for entry in entries() if os.path.isabs(entry) and entry not in first)]
    if safe:
        os.environ["PYTHONPATH"] = os.pathsep.join(safe)
    else:
        os.environ.pop("PYTHONPATH", None)


def guard_ray() -> None:
    """Make our own Ray ask for a token that only this user can read; a cluster of the user's keeps its own rules."""
    if any(name in os.environ for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        return
    secret_token(paths.ray_token())
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(paths.ray_token())}


def secret_token(path: Path) -> str:
    """Read the token in a file that only this user can read; a random one is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not _is_token(path):
        path.unlink(missing_ok=True)  # damaged: with it Ray refuses to start, or its first call ends the process
        whole = path.with_name(f"{path.name}.{os.getpid()}")  # another command may read the token at any moment
        descriptor = os.open(whole, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):
            os.link(whole, path)
        whole.unlink()
    return read_bytes(path).decode().strip()


def _is_token(path: Path) -> bool:
    try:
        return re.fullmatch(rb"[0-9a-f]{64}", read_bytes(path)) is not None
    except OSError:
        return False


def survive_head() -> None:
    """Make this process outlive the head of Ray, which it replaces; Ray would end it after 60 s, with exit code 1.

    Counts when it is called before Ray is imported.
    """
    os.environ[HEAD_SETTING] = str(HEAD_SECONDS)


def store_limits() -> tuple[int, float]:
    """Return the size limit of the artefact store in bytes, and days after which an unused entry is dropped."""
    return paths.store_bytes(), STORE_DAYS
