"""The server of the studio page: its routes (`flows.serving.studio`), live output and the files of published runs.

For this machine's browsers, unless it is to listen elsewhere: then it asks for a token. It reads what renders write
(`live/` below their work folders) and, once a render has ended, what it left in the store, so that a viewer sees the
video to its end; and it gives the files of published runs, which the links of the Prefect UI name.
"""

import errno
import re
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from flows.serving.environment import LOOPBACK, secret_token
from flows.serving.gate import App, LoopbackGate, TokenGate
from flows.serving.metrics import MetricsPage
from flows.serving.studio.jobs import JobQueue, PrefectQueue
from flows.serving.studio.routes import HEADERS, Studio
from liveavatar import paths
from liveavatar.errors import InputError
from liveavatar.files import newest_first, read_bytes
from liveavatar.media.hls import PLAYLIST
from tasks.catalogue import CatalogueRecord, find_run, page_path, recorded_runs
from tasks.run_folder import VIDEO
from tasks.store.store import Store

HOST = "127.0.0.1"
ANY_HOST = ("0.0.0.0", "::")
PART = re.compile(r"index\.m3u8|init\.mp4|segment_\d{6}\.m4s")
KINDS = {".m3u8": "application/vnd.apple.mpegurl", ".mp4": "video/mp4", ".m4s": "video/iso.segment"}
LIVE = "live"  # folder of the playlist, in a work folder and in the store
LIVELY_SECONDS = 30.0  # since its last segment, in which a render counts as under way whoever makes it
RECENT = 5  # ended renders with live output that are listed
LISTED = 50  # published runs that are listed
# A report has its script and pictures inside; in a sandbox it can neither ask this server nor read its answers.
REPORT_HEADERS = HEADERS | {
    "Content-Security-Policy": "sandbox allow-scripts allow-downloads; default-src 'none'; img-src data:; "
    "media-src data: 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
}
START_SECONDS = 20.0


def live_folders() -> dict[str, Path]:
    """Map render ids to folders with a live playlist: renders under way, then ended ones, newest first."""
    store = Store()
    playlists = (p for p in newest_first(paths.work().glob(f"*/{LIVE}/{PLAYLIST}")) if _is_made(p, store))
    working = {p.parent.parent.name: p.parent for p in playlists}
    stored = (folder / LIVE / PLAYLIST for folder in store.folders("render"))
    ended = {p.parent.parent.name[:32]: p.parent for p in newest_first(stored)}
    return working | {name: folder for name, folder in list(ended.items())[:RECENT] if name not in working}


def _is_made(playlist: Path, store: Store) -> bool:
    """Tell if a render writes the playlist, or has just ended; one whose process is gone does not."""
    try:
        fresh = time.time() - playlist.stat().st_mtime < LIVELY_SECONDS
    except OSError:  # it moved to the store just now
        return False
    return fresh or store.is_locked("render", playlist.parent.parent.name)


def renders() -> list[dict[str, object]]:
    """List the renders with live output: `id`, `seconds` in the playlist, `ended`."""
    listed: list[dict[str, object]] = []
    for name, folder in live_folders().items():
        try:
            playlist = read_bytes(folder / PLAYLIST).decode()
        except (OSError, ValueError):  # it moved to the store just now, or its text is damaged
            continue
        seconds = sum(float(duration) for duration in re.findall(r"#EXTINF:([\d.]+)", playlist))
        listed.append({"id": name, "seconds": round(seconds, 2), "ended": "#EXT-X-ENDLIST" in playlist})
    return listed


def published() -> list[dict[str, object]]:
    """List the newest published runs whose files are there: what they were made of, their verdict and addresses."""
    return [_listed(run) for run in recorded_runs(2 * LISTED) if run.folder is not None][:LISTED]


def _listed(run: CatalogueRecord) -> dict[str, object]:
    told = {name: run.facts.get(name) for name in ("prompt", "seed", "preset", "seconds")}
    return {
        "id": run.id, "name": run.name, "out": run.out, "status": run.status,
        "finished": run.finished,  # s since 1970
        **told,
        "video": page_path(run.id, VIDEO), "report": page_path(run.id), "picture": page_path(run.id, "portrait.png"),
    }  # fmt: skip


def _renders(_: Request) -> Response:
    return JSONResponse(renders(), headers=HEADERS)


def _published(_: Request) -> Response:
    return JSONResponse(published(), headers=HEADERS)


def _live_part(request: Request) -> Response:
    name, file = request.path_params["id"], request.path_params["file"]
    if re.fullmatch(r"[0-9a-f]{32}", name) and PART.fullmatch(file):
        for folder in (paths.work_folder(name), *Store().folders("render", prefix=name)):
            try:
                data = read_bytes(folder / LIVE / file)
            except OSError:
                continue
            return Response(data, headers=HEADERS, media_type=KINDS[Path(file).suffix])
    return _not_here()


def _run_file(request: Request) -> Response:
    run = find_run(request.path_params["id"])
    path = None if run is None else run.file(request.path_params["file"])
    if path is None:
        return _not_here()
    return FileResponse(path, headers=REPORT_HEADERS if path.suffix == ".html" else HEADERS)


def _not_here(text: str = "not here, or made again in the meantime") -> Response:
    return PlainTextResponse(text, status_code=404, headers=HEADERS)


def create_app(queue: JobQueue, token: str | None = None) -> App:
    """Make the application of the page, behind a gate.

    Args:
        queue: of jobs.
        token: to be asked for; None: the page is for this machine only.
    """
    application = Starlette(
        routes=[
            *Studio(queue).routes(),
            Route("/metrics", MetricsPage(queue).answer),
            Route("/runs.json", _renders),
            Route("/published.json", _published),
            Route("/live/{id}/{file}", _live_part),
            Route("/runs/{id}/{file:path}", _run_file),
        ]
    )
    return LoopbackGate(application) if token is None else TokenGate(application, token)


class LivePage:
    """Context manager: inside it, the page answers at `url`."""

    def __init__(self, port: int = 0, host: str = HOST, queue: JobQueue | None = None) -> None:
        """Take a port.

        Args:
            port: to listen on; another one when it is taken, 0 for any.
            host: address to listen on; beyond this machine the page asks for a token.
            queue: of jobs; None: that of the Prefect server.

        Raises:
            InputError: this machine has no such address.
        """
        self._host = host
        self._socket = _listening_socket(host, port)
        self._token = None if host in LOOPBACK else secret_token(paths.page_token())
        application = create_app(PrefectQueue() if queue is None else queue, self._token)
        config = uvicorn.Config(application, log_config=None, access_log=False, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, daemon=True, name="live-page")

    @property
    def url(self) -> str:
        """Address of the page, as links name it."""
        name = socket.gethostname() if self._host in ANY_HOST else self._host
        return f"http://{f'[{name}]' if ':' in name else name}:{self._socket.getsockname()[1]}/"

    @property
    def opening_url(self) -> str:
        """Address that opens the page for the first time: with the token where one is asked for."""
        return self.url if self._token is None else f"{self.url}?token={self._token}"

    def __enter__(self) -> "LivePage":
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        return self

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(START_SECONDS)
        self._socket.close()


def _listening_socket(host: str, port: int) -> socket.socket:
    """Bind a socket to a port of an address; to any port when that one is taken."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for number in (port, 0):
        try:
            bound.bind((host, number))
            return bound
        except OSError as e:
            if e.errno not in (errno.EADDRINUSE, errno.EACCES) or not number:
                bound.close()
                raise InputError(f"--live_host {host}: the page cannot listen there ({e.strerror})") from e
    raise AssertionError("the loop returns or raises")
