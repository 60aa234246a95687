"""The page of `liveavatar serve`: renders with live output, playing while they are made, and what ended runs left.

For this machine's browsers only. It reads what renders write (`live/` below their work folders) and, once a render has
ended, what it left in the store, so that a viewer sees the video to its end; and it gives the files of published runs,
which the links of the Prefect UI name.
"""

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

from flows.serving.gate import LoopbackGate
from liveavatar import paths
from liveavatar.files import newest_first
from liveavatar.media.hls import PLAYLIST
from tasks.catalogue import VIDEO, find_run, page_path, recorded_runs
from tasks.store.store import Store

HOST = "127.0.0.1"
PAGE = Path(__file__).with_name("live_page.html")
PART = re.compile(r"index\.m3u8|init\.mp4|segment_\d{6}\.m4s")
KINDS = {".m3u8": "application/vnd.apple.mpegurl", ".mp4": "video/mp4", ".m4s": "video/iso.segment"}
LIVE = "live"  # folder of the playlist, in a work folder and in the store
RECENT = 5  # ended renders with live output that are listed
LISTED = 50  # published runs that are listed
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
START_SECONDS = 20.0


def live_folders() -> dict[str, Path]:
    """Map render ids to folders with a live playlist: renders under way, then ended ones, newest first."""
    working = {p.parent.parent.name: p.parent for p in newest_first(paths.work().glob(f"*/{LIVE}/{PLAYLIST}"))}
    stored = (folder / LIVE / PLAYLIST for folder in Store().folders("render"))
    ended = {p.parent.parent.name[:32]: p.parent for p in newest_first(stored)}
    return working | {name: folder for name, folder in list(ended.items())[:RECENT] if name not in working}


def renders() -> list[dict[str, object]]:
    """List the renders with live output: `id`, `seconds` in the playlist, `ended`."""
    listed: list[dict[str, object]] = []
    for name, folder in live_folders().items():
        try:
            playlist = (folder / PLAYLIST).read_text()
        except OSError:  # it moved to the store just now
            continue
        seconds = sum(float(duration) for duration in re.findall(r"#EXTINF:([\d.]+)", playlist))
        listed.append({"id": name, "seconds": round(seconds, 2), "ended": "#EXT-X-ENDLIST" in playlist})
    return listed


def published() -> list[dict[str, object]]:
    """List the newest published runs whose files are there: name, status, end (s since 1970), addresses."""
    runs = [run for run in recorded_runs(2 * LISTED) if run.folder is not None][:LISTED]
    return [
        {
            "name": run.name, "out": run.out, "status": run.status, "finished": run.finished,
            "video": page_path(run.id, VIDEO), "report": page_path(run.id),
        }
        for run in runs
    ]  # fmt: skip


async def _page(_: Request) -> Response:
    return FileResponse(PAGE, headers=HEADERS, media_type="text/html")


def _renders(_: Request) -> Response:
    return JSONResponse(renders(), headers=HEADERS)


def _published(_: Request) -> Response:
    return JSONResponse(published(), headers=HEADERS)


def _live_part(request: Request) -> Response:
    name, file = request.path_params["id"], request.path_params["file"]
    if re.fullmatch(r"[0-9a-f]{32}", name) and PART.fullmatch(file):
        for folder in (paths.work_folder(name), *Store().folders("render", prefix=name)):
            try:
                data = (folder / LIVE / file).read_bytes()
            except OSError:
                continue
            return Response(data, headers=HEADERS, media_type=KINDS[Path(file).suffix])
    return _not_here()


def _run_file(request: Request) -> Response:
    run = find_run(request.path_params["id"])
    path = None if run is None else run.file(request.path_params["file"])
    return _not_here() if path is None else FileResponse(path, headers=HEADERS)


def _not_here(text: str = "not here, or made again in the meantime") -> Response:
    return PlainTextResponse(text, status_code=404, headers=HEADERS)


def create_app() -> LoopbackGate:
    """Make the application of the page, behind the gate for this machine."""
    routes = [
        Route("/", _page),
        Route("/runs.json", _renders),
        Route("/published.json", _published),
        Route("/live/{id}/{file}", _live_part),
        Route("/runs/{id}/{file:path}", _run_file),
    ]
    return LoopbackGate(Starlette(routes=routes))


class LivePage:
    """Context manager: inside it, the page answers at `url`."""

    def __init__(self, port: int = 0) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((HOST, port))
        except OSError:  # somebody else has that port
            self._socket.bind((HOST, 0))
        config = uvicorn.Config(create_app(), log_config=None, access_log=False, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, daemon=True, name="live-page")

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{HOST}:{self._socket.getsockname()[1]}/"

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
