"""The live page of `liveavatar serve`: renders with live output, playing while they are made, sound included.

A small HTTP server for this machine's browsers only. It reads what renders write (`live/` below their work folders)
and, once a render has ended, what it left in the store, so that a viewer sees the video to its end.
"""

import json
import re
import threading
from collections.abc import Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

from flows.serving.gate import is_local
from liveavatar import paths
from liveavatar.media.hls import PLAYLIST
from tasks.store.store import Store

HOST = "127.0.0.1"
PAGE = Path(__file__).with_name("live_page.html")
PART = re.compile(r"/live/([0-9a-f]{32})/(index\.m3u8|init\.mp4|segment_\d{6}\.m4s)")
KINDS = {".m3u8": "application/vnd.apple.mpegurl", ".mp4": "video/mp4", ".m4s": "video/iso.segment"}
LIVE = "live"  # folder of the playlist, in a work folder and in the store
RECENT = 5  # ended renders that are listed


def live_folders() -> dict[str, Path]:
    """Map render ids to folders with a live playlist: renders under way, then ended ones, newest first."""
    working = {p.parent.parent.name: p.parent for p in _newest(paths.work().glob(f"*/{LIVE}/{PLAYLIST}"))}
    stored = (folder / LIVE / PLAYLIST for folder in Store().folders("render"))
    ended = {p.parent.parent.name[:32]: p.parent for p in _newest(stored)}
    return working | {name: folder for name, folder in list(ended.items())[:RECENT] if name not in working}


def runs() -> list[dict[str, object]]:
    """List the renders of the page: `id`, `seconds` in the playlist, `ended`."""
    listed: list[dict[str, object]] = []
    for name, folder in live_folders().items():
        try:
            playlist = (folder / PLAYLIST).read_text()
        except OSError:  # it moved to the store just now
            continue
        seconds = sum(float(duration) for duration in re.findall(r"#EXTINF:([\d.]+)", playlist))
        listed.append({"id": name, "seconds": round(seconds, 2), "ended": "#EXT-X-ENDLIST" in playlist})
    return listed


class LivePage:
    """Context manager: inside it, the page answers at `url`."""

    def __init__(self, port: int = 0) -> None:
        try:
            self._server = ThreadingHTTPServer((HOST, port), _Handler)
        except OSError:  # somebody else has that port
            self._server = ThreadingHTTPServer((HOST, 0), _Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{HOST}:{self._server.server_address[1]}/"

    def __enter__(self) -> "LivePage":
        threading.Thread(target=self._server.serve_forever, daemon=True, name="live-page").start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer a request."""
        part = PART.fullmatch(self.path)
        if not is_local(self.headers.get("Host", ""), self.headers.get("Origin")):
            self._answer(b"this page is for this machine only", "text/plain", HTTPStatus.FORBIDDEN)
        elif self.path == "/":
            self._answer(PAGE.read_bytes(), "text/html; charset=utf-8")
        elif self.path == "/runs.json":
            self._answer(json.dumps(runs()).encode(), "application/json")
        elif part and (data := _read(part[1], part[2])) is not None:
            self._answer(data, KINDS[Path(part[2]).suffix])
        else:
            self._answer(b"not here", "text/plain", HTTPStatus.NOT_FOUND)

    def _answer(self, data: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(data))), ("Cache-Control", "no-store")):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the terminal is for renders."""


def _read(name: str, file: str) -> bytes | None:
    for folder in (paths.work_folder(name), *Store().folders("render", prefix=name)):
        try:
            return (folder / LIVE / file).read_bytes()
        except OSError:
            continue
    return None


def _newest(files: Iterable[Path]) -> list[Path]:
    dated: list[tuple[float, Path]] = []
    for path in files:
        try:
            dated.append((path.stat().st_mtime, path))
        except OSError:
            continue
    return [path for _, path in sorted(dated, reverse=True)]
