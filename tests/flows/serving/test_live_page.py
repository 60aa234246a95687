"""The live page: what it lists, what it gives away, and a browser that plays a video while it is made."""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.sync.client import connect

from flows.serving.live_page import LivePage
from liveavatar.media.film import FilmWriter
from tasks.catalogue import record_run
from tasks.store.store import Store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
RUN = "0123456789abcdef" * 2
SEGMENT = 24  # frames
FPS = 25


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    (tmp_path / "secret").write_text("secret")
    return tmp_path


@pytest.fixture
def video(home: Path) -> FilmWriter:
    """A video with sound that is being made; 192 frames are to come."""
    work = home / "work" / RUN
    tone = (0.2 * np.sin(2 * np.pi * 330 * np.arange(192 * 640) / 16_000)).astype(np.float32)
    return FilmWriter(work / "video.mp4", size=(64, 48), segment_frames=SEGMENT, live_dir=work / "live", audio=tone)


def frames(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (count, 48, 64, 3), dtype=np.uint8)


def get(url: str, **headers: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as e:
        return e.code, e.read()


def test_lists_a_running_render_and_serves_its_parts_until_after_its_end(home: Path, video: FilmWriter) -> None:
    with LivePage() as page:
        assert json.loads(get(f"{page.url}runs.json")[1]) == []
        video.write(frames(3 * SEGMENT))
        assert json.loads(get(f"{page.url}runs.json")[1]) == [{"id": RUN, "seconds": 2.88, "ended": False}]
        status, playlist = get(f"{page.url}live/{RUN}/index.m3u8")
        names = [line for line in playlist.decode().splitlines() if not line.startswith("#")]
        assert (status, len(names)) == (200, 3)
        for name in ("init.mp4", *names):
            assert get(f"{page.url}live/{RUN}/{name}")[1] == (home / "work" / RUN / "live" / name).read_bytes()
        video.close()
        # A finished render moves to the store; who watches it goes on.

        def make(folder: Path) -> dict[str, Any]:
            shutil.move(home / "work" / RUN / "live", folder / "live")
            return {}

        Store().build("render", RUN * 2, make)
        assert json.loads(get(f"{page.url}runs.json")[1]) == [{"id": RUN, "seconds": 2.88, "ended": True}]
        assert get(f"{page.url}live/{RUN}/{names[0]}")[0] == 200


@pytest.mark.parametrize(
    "path", ["secret", "live/../secret", "live/%2e%2e/secret", f"live/{RUN}/../../../secret", f"live/{RUN}/latents.bin"]
)
def test_gives_nothing_else_away(home: Path, video: FilmWriter, path: str) -> None:
    video.write(frames(SEGMENT))
    with LivePage() as page:
        status, body = get(page.url + path)
        assert status == 404
        assert b"secret" not in body


def test_published_runs_are_listed_and_their_videos_can_be_sought(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    video = bytes(range(256)) * 40
    (out / "video.mp4").write_bytes(video)
    (out / "secret.txt").write_text("secret")
    inputs = {"audio": {"name": "voice.wav"}, "image": {"name": "anna.png"}}
    manifest = {"inputs": inputs, "outputs": {"video.mp4": "1" * 64}}
    (out / "manifest.json").write_text(json.dumps(manifest))
    run = record_run(out, manifest, "passed")
    with LivePage() as page:
        (listed,) = json.loads(get(f"{page.url}published.json")[1])
        assert (listed["name"], listed["status"]) == ("voice, anna", "passed")
        assert get(page.url + listed["video"]) == (200, video)
        assert get(page.url + listed["video"], Range="bytes=1000-1009") == (206, video[1000:1010])
        for path in ("secret.txt", "../secret", "%2e%2e/secret", "%2fetc/passwd", ""):
            assert get(f"{page.url}runs/{run.id}/{path}")[0] == 404
        (out / "manifest.json").unlink()
        assert get(page.url + listed["video"])[0] == 404
        assert json.loads(get(f"{page.url}published.json")[1]) == []


def test_another_sites_name_is_refused(home: Path) -> None:
    with LivePage() as page:
        assert get(f"{page.url}runs.json", Host="evil.example:80")[0] == 403
        assert get(f"{page.url}runs.json", Origin="http://evil.example")[0] == 403
        assert get(f"{page.url}runs.json", Origin=page.url.rstrip("/"))[0] == 200


def test_a_taken_port_is_no_obstacle(home: Path) -> None:
    with LivePage() as first, LivePage(int(first.url.rsplit(":", 1)[1].strip("/"))) as second:
        assert first.url != second.url
        assert get(second.url)[0] == 200


@contextmanager
def browser(url: str, folder: Path) -> Iterator[Callable[[str], Any]]:
    """A headless Chromium at a page, and a function that evaluates JavaScript there."""
    assert CHROMIUM is not None
    flags = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", "--disable-quic"),
        *("--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"),
        *(f"--user-data-dir={folder}", "--autoplay-policy=no-user-gesture-required"),
    )
    process = subprocess.Popen([CHROMIUM, *flags, url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file = folder / "DevToolsActivePort"
        wait_for(lambda: port_file.is_file() and len(port_file.read_text().splitlines()) == 2, 60)
        port = port_file.read_text().splitlines()[0]
        pages = json.loads(get(f"http://127.0.0.1:{port}/json")[1])
        target = next(p["webSocketDebuggerUrl"] for p in pages if p["type"] == "page")
        with connect(target) as socket:

            def evaluate(expression: str) -> Any:
                order = {"id": 1, "method": "Runtime.evaluate", "params": {"expression": expression}}
                socket.send(json.dumps(order))
                return json.loads(socket.recv(20))["result"]["result"].get("value")

            yield evaluate
    finally:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], Any], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_plays_the_video_while_it_is_made(home: Path, video: FilmWriter, tmp_path: Path) -> None:
    video.write(frames(4 * SEGMENT))
    with LivePage() as page, browser(page.url, tmp_path / "profile") as evaluate:
        wait_for(lambda: (evaluate("video.currentTime") or 0) > 1.9)  # of 3.84 s: near what was just made
        assert "Live: 4 segments" in evaluate("state.textContent")
        wait_for(lambda: (evaluate("video.currentTime") or 0) > 3.5)
        assert not evaluate("video.ended")
        video.write(frames(4 * SEGMENT))
        video.close()
        wait_for(lambda: evaluate("video.ended"))
        assert evaluate("video.duration") == pytest.approx(8 * SEGMENT / FPS, abs=0.06)
        assert evaluate("video.videoWidth") == 64
        assert evaluate("video.webkitDecodedFrameCount") > 3 * SEGMENT
        assert evaluate("video.webkitAudioDecodedByteCount") > 10_000, "the video is silent"
        assert "ended" in evaluate("state.textContent")
        assert evaluate("video.error") is None
