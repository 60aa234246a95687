"""The live page: what it lists, what it gives away, and a browser that plays a video while it is made."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import wavfile

from flows.serving.live_page import LivePage, renders
from flows.serving.studio.jobs import ENDED, RUNNING, QueuedJob
from liveavatar import paths
from liveavatar.errors import CapacityError, InputError
from liveavatar.hardware import free_port
from liveavatar.media.film import FilmWriter
from tasks.catalogue import record_run
from tasks.store.store import Store
from tests.browser import Browser, browser, needs_chromium, wait_for

RUN = "0123456789abcdef" * 2
BUTTON = "document.querySelector('#queue li button')"
DENY = "Object.defineProperty(window, 'sessionStorage', {get() { throw new DOMException('denied'); }});"
SLOW_FIRST = """{
  const send = XMLHttpRequest.prototype.send;
  let sent = 0;
  XMLHttpRequest.prototype.send = function (body) { setTimeout(() => send.call(this, body), sent++ ? 0 : 2000); };
}"""
SEGMENT = 24  # frames
FPS = 25


class NoJobs:
    """A queue without jobs."""

    def start(self, parameters: dict[str, Any]) -> str:
        raise AssertionError(parameters)

    def jobs(self) -> list[QueuedJob]:
        return []

    def cancel(self, job_id: str) -> None:
        raise AssertionError(job_id)

    def go_on(self, job_id: str) -> None:
        raise AssertionError(job_id)

    def renew_form(self) -> None:
        raise AssertionError


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


def test_a_render_whose_process_is_gone_is_not_listed(home: Path, video: FilmWriter) -> None:
    video.write(frames(SEGMENT))
    playlist = home / "work" / RUN / "live" / "index.m3u8"
    os.utime(playlist, (1, 1))
    assert renders() == []
    with Store().lock("render", RUN * 2):
        assert [render["id"] for render in renders()] == [RUN], "slow, but under way"


@pytest.mark.parametrize(
    "path", ["secret", "live/../secret", "live/%2e%2e/secret", f"live/{RUN}/../../../secret", f"live/{RUN}/latents.bin"]
)
def test_gives_nothing_else_away(home: Path, video: FilmWriter, path: str) -> None:
    video.write(frames(SEGMENT))
    with LivePage() as page:
        status, body = get(page.url + path)
        assert status == 404
        assert b"secret" not in body


def test_prometheus_reads_the_metrics(home: Path) -> None:
    with LivePage(queue=NoJobs()) as page:
        status, text = get(f"{page.url}metrics")
    assert (status, b"\nliveavatar_blocks_total 0.0\n" in text) == (200, True)


def test_published_runs_are_listed_and_their_videos_can_be_sought(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    video = bytes(range(256)) * 40
    (out / "video.mp4").write_bytes(video)
    (out / "secret.txt").write_text("secret")
    inputs = {"audio": {"name": "voice.wav", "seconds": 2.5}, "image": {"name": "anna.png"}}
    parameters = {"seed": 7, "prompt": "<i>hello</i>"}
    manifest = {"inputs": inputs, "parameters": parameters, "outputs": {"video.mp4": "1" * 64}}
    (out / "manifest.json").write_text(json.dumps(manifest))
    run = record_run(out, manifest, {"status": "passed"})
    with LivePage() as page:
        (listed,) = json.loads(get(f"{page.url}published.json")[1])
        assert (listed["name"], listed["status"]) == ("voice, anna", "passed")
        assert get(page.url + listed["video"]) == (200, video)
        assert (listed["seed"], listed["prompt"], listed["seconds"]) == (7, "<i>hello</i>", 2.5)
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


class Progress:
    """A queue with one job, further on each time it is asked for."""

    def __init__(self) -> None:
        self.percent = itertools.count()
        self.started: list[dict[str, Any]] = []

    def start(self, parameters: dict[str, Any]) -> str:
        self.started.append(parameters)
        return "job"

    def jobs(self) -> list[QueuedJob]:
        done = float(next(self.percent))
        job = QueuedJob(id="job", name="anna", state=RUNNING, label="Running", message="", stage="render", percent=done)
        return [job]

    def cancel(self, job_id: str) -> None:
        raise AssertionError(job_id)

    def go_on(self, job_id: str) -> None:
        raise AssertionError(job_id)

    def renew_form(self) -> None:
        pass


class Crashing:
    """A queue with a job whose process was killed; told to go on it runs, and cancelled it ends for good."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.away = True  # the first time that it is asked for

    def start(self, parameters: dict[str, Any]) -> str:
        raise AssertionError(parameters)

    def jobs(self) -> list[QueuedJob]:
        states = {"": (ENDED, "Crashed"), "go on": (RUNNING, "Running"), "cancel": (RUNNING, "Cancelling")}
        state, label = states[self.asked[-1] if self.asked else ""]
        message = (
            "Process exited with status code: -9. Process exited due to a SIGKILL signal." if state == ENDED else ""
        )
        job = QueuedJob(id="job", name="anna-face-7", state=state, label=label, message=message, percent=40.0)
        return [replace(job, can_go_on=state == ENDED)]

    def cancel(self, job_id: str) -> None:
        self.asked.append("cancel")

    def go_on(self, job_id: str) -> None:
        assert job_id == "job"
        if self.away:
            self.away = False
            raise CapacityError("Prefect does not answer (ConnectError)")
        self.asked.append("go on")

    def renew_form(self) -> None:
        pass


def text(see: Browser, name: str) -> str:
    return str(see(f"document.getElementById('{name}').textContent"))


def write_tone(path: Path, pitch: float) -> Path:
    wavfile.write(path, 16_000, (0.3 * np.sin(np.arange(16_000) * pitch)).astype(np.float32))
    return path


@pytest.mark.slow
@needs_chromium
def test_the_page_under_a_finger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    queue = Progress()
    with LivePage(queue=queue) as page, browser("about:blank", tmp_path / "profile") as see:
        for script in (DENY, SLOW_FIRST):
            see.call("Page.addScriptToEvaluateOnNewDocument", source=script)
        see.open(page.url)
        wait_for(lambda: see("document.documentElement.dataset.ready") == "1")

        wait_for(lambda: see(BUTTON + " !== null"))
        see(f"window.button = {BUTTON}; button.focus()")
        shown = text(see, "queue")
        wait_for(lambda: text(see, "queue") != shown)
        assert see(f"button === {BUTTON} && document.activeElement === button"), "a click between two looks is lost"
        told = "import('/page/words.js').then((words) => [3599, 7199, 3629].map(words.duration))"
        assert see(told) == ["59 min 59 s", "2 h 0 min", "1 h 0 min"]

        see.choose_file("#sound-file", write_tone(tmp_path / "first.wav", 0.1))
        see.choose_file("#sound-file", write_tone(tmp_path / "second.wav", 0.2))
        wait_for(lambda: text(see, "sound-state").startswith("second.wav"))
        wait_for(lambda: len(list((tmp_path / "home" / "inputs").glob("*.json"))) == 2)
        assert text(see, "sound-state").startswith("second.wav"), "the file that was chosen last counts"

        see.choose_file("#picture-file", paths.SAMPLES / "portrait.png")
        see("document.getElementById('prompt').value = 'A woman explains something with a smile'")
        see("document.getElementById('prompt').dispatchEvent(new Event('input'))")
        wait_for(lambda: not see("document.getElementById('start').disabled"))
        see("document.getElementById('seed').value = '7x'; document.getElementById('start').click()")
        wait_for(lambda: "whole number" in text(see, "start-state"))
        assert queue.started == []
        see("document.getElementById('seed').value = '7'; document.getElementById('start').click()")
        wait_for(lambda: queue.started)
        assert (queue.started[0]["seed"], Path(queue.started[0]["audio"]).name) == (7, "second.wav")

        see.choose_file("#sound-file", paths.SAMPLES / "portrait.png")
        wait_for(lambda: "it has no sound" in text(see, "sound-state"))
        assert see("document.getElementById('sound-play').hidden")
        assert see.errors == []


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize(
    ("language", "words"),
    [
        pytest.param(
            *("en", ("Crashed: the process of this run has ended", "Go on", "Prefect does not answer", "Cancel")),
            id="English",
        ),
        pytest.param("zh", ("崩溃：任务进程意外结束（退出码 -9）", "继续", "Prefect 没有响应", "取消"), id="Chinese"),
    ],
)
def test_a_job_that_crashed_goes_on_by_a_button_on_a_phone(
    home: Path, tmp_path: Path, language: str, words: tuple[str, str, str, str]
) -> None:
    queue, (crashed, go_on, away, cancel) = Crashing(), words
    with LivePage(queue=queue) as page, browser("about:blank", tmp_path / "profile") as see:
        see.resize(390, 844, language=language)
        see.open(page.url)
        wait_for(lambda: see(BUTTON + " !== null"))
        assert crashed in text(see, "queue")
        assert "--resume" not in text(see, "queue")
        assert see(BUTTON + ".textContent") == go_on
        sides = see(f"Object.values(JSON.parse(JSON.stringify({BUTTON}.getBoundingClientRect())))")
        assert sides[3] >= 30, "as high as a finger needs"
        assert see.overflow() <= 0
        see(BUTTON + ".click()")
        wait_for(lambda: see(BUTTON + ".textContent").startswith(away))
        assert see.overflow() <= 0
        see(BUTTON + ".click()")
        wait_for(lambda: queue.asked == ["go on"])
        wait_for(lambda: see(BUTTON + ".textContent") == cancel)
        see(BUTTON + ".click()")
        wait_for(lambda: see(BUTTON + " === null"))
        shown = text(see, "queue")
        assert {"en": "Cancelling", "zh": "正在取消"}[language] in shown
        assert "40 %" not in shown
        assert see.errors == []


@pytest.mark.slow
@needs_chromium
def test_a_browser_plays_the_video_while_it_is_made(home: Path, video: FilmWriter, tmp_path: Path) -> None:
    video.write(frames(4 * SEGMENT))
    with LivePage(queue=NoJobs()) as page, browser(f"{page.url}#{RUN}", tmp_path / "profile") as see:
        wait_for(lambda: (see("video.currentTime") or 0) > 1.9)  # of 3.84 s
        assert "Live: 3.8 s" in see("state.textContent")
        wait_for(lambda: (see("video.currentTime") or 0) > 3.5)
        assert not see("video.ended")
        video.write(frames(4 * SEGMENT))
        video.close()
        wait_for(lambda: see("video.ended"))
        assert see("video.duration") == pytest.approx(8 * SEGMENT / FPS, abs=0.06)
        assert see("video.videoWidth") == 64
        assert see("video.webkitDecodedFrameCount") > 3 * SEGMENT
        assert see("video.webkitAudioDecodedByteCount") > 10_000, "the video is silent"
        assert "ended" in see("state.textContent")
        assert see("video.error") is None
        assert see.errors == []


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize(("language", "told"), [("en", "The server does not answer"), ("zh", "服务器没有应答")])
def test_a_page_that_is_open_goes_on_when_its_server_is_back(
    home: Path, video: FilmWriter, tmp_path: Path, language: str, told: str
) -> None:
    port = free_port()
    with browser("about:blank", tmp_path / "profile") as see:
        see.resize(1280, 800, language=language)
        with LivePage(port=port, queue=NoJobs()) as page:
            see.open(f"{page.url}#{RUN}")
            video.write(frames(4 * SEGMENT))
            wait_for(lambda: (see("video.currentTime") or 0) > 1.9)  # of 3.84 s
        wait_for(lambda: text(see, "idle").startswith(told))
        video.write(frames(4 * SEGMENT))
        video.close()
        with LivePage(port=port, queue=NoJobs()):
            wait_for(lambda: see("video.ended"))
            wait_for(lambda: see("document.getElementById('idle').hidden") or not text(see, "idle").startswith(told))
        assert see("video.duration") == pytest.approx(8 * SEGMENT / FPS, abs=0.06)
        assert see.errors == []


def test_beyond_this_machine_it_asks_for_a_token(home: Path) -> None:
    with LivePage(host="0.0.0.0", queue=NoJobs()) as page:
        port = page.url.rsplit(":", 1)[1].strip("/")
        url = f"http://127.0.0.1:{port}/"
        token = page.opening_url.partition("?token=")[2]
        assert len(token) == 64
        assert (home / "page_token").stat().st_mode & 0o777 == 0o600
        assert get(f"{url}api/jobs")[0] == get(url)[0] == get(f"{url}runs.json", Host="127.0.0.1")[0] == 401
        assert get(f"{url}api/jobs", Authorization=f"Bearer {token}") == (200, b"[]")
    with LivePage(queue=NoJobs()) as page:
        assert page.opening_url == page.url


def test_an_address_of_another_machine_is_refused(home: Path) -> None:
    with pytest.raises(InputError, match=r"--live_host 192\.0\.2\.1"):
        LivePage(host="192.0.2.1", queue=NoJobs())


def short_speech(path: Path, seconds: float) -> Path:
    """Cut the beginning off the sample."""
    with wave.open(str(paths.DATA / "samples" / "speech.wav")) as whole, wave.open(str(path), "wb") as cut:
        cut.setparams(whole.getparams())
        cut.writeframes(whole.readframes(round(seconds * whole.getframerate())))
    return path


@contextmanager
def served(home: Path, folder: Path) -> Iterator[str]:
    """Run `liveavatar serve` and yield the address of the studio page."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment["LIVEAVATAR_HOME"] = str(home)
    command = [sys.executable, "-m", "flows.cli", "serve", "--port", str(free_port()), "--live_port", "0"]
    log = folder / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
        try:
            wait_for(lambda: "studio page: " in log.read_text() or process.poll() is not None, 600)
            assert process.poll() is None, log.read_text()
            yield log.read_text().partition("studio page: ")[2].split()[0]
        finally:
            process.terminate()
            process.wait(120)


@pytest.mark.nightly
@pytest.mark.timeout(2400)
@needs_chromium
def test_a_video_is_made_from_upload_to_download(home: Path, tmp_path: Path) -> None:
    """The whole way of a producer, on a phone: upload, render, play, results, download, report, another seed."""
    sound = short_speech(tmp_path / "voice.wav", 3.0)
    downloads = tmp_path / "downloads"
    with served(home, tmp_path) as url, browser("about:blank", tmp_path / "profile") as see:
        see.resize(390, 844)
        see.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
        see.open(url)
        wait_for(lambda: see("document.documentElement.dataset.ready") == "1")
        assert see("document.getElementById('start').disabled")
        see.choose_file("#sound-file", sound)
        see.choose_file("#picture-file", paths.DATA / "samples" / "portrait.png")
        see("document.getElementById('prompt').value = 'A man in his thirties explains something with a smile'")
        see("document.getElementById('prompt').dispatchEvent(new Event('input'))")
        wait_for(lambda: see("document.getElementById('verdict').textContent") == "This face will speak", 120)
        wait_for(lambda: "more detail helps" in see("document.getElementById('grade').textContent"))
        wait_for(lambda: not see("document.getElementById('start').disabled"), 60)
        assert see.overflow() <= 0
        see("document.querySelector('[value=fast]').click()")
        see("document.getElementById('start').click()")
        wait_for(lambda: see("document.querySelectorAll('#queue li').length") == 1, 60)
        wait_for(lambda: see("document.getElementById('video').currentTime") > 0.5, 600)
        assert "Live" in see("document.getElementById('state').textContent")
        wait_for(lambda: see("document.querySelectorAll('#results li').length") == 1, 600)
        wait_for(lambda: see("document.querySelectorAll('#queue li').length") == 0, 60)
        assert see.overflow() <= 0
        see("document.querySelector('#results a[download]').click()")
        wait_for(lambda: list(downloads.glob("voice-portrait-*.mp4")), 60)
        (run,) = (tmp_path / "out").iterdir()
        assert next(downloads.glob("*.mp4")).read_bytes() == (run / "video.mp4").read_bytes()
        again = "[...document.querySelectorAll('#results button')].find(b => b.textContent.startsWith('Again'))"
        see(f"{again}.click()")
        wait_for(lambda: see("document.querySelectorAll('#results li').length") == 2, 600)
        see("document.querySelectorAll('#results [aria-pressed]').forEach((_, n) => "
            "document.querySelectorAll('#results [aria-pressed]')[n].click())")  # fmt: skip
        wait_for(lambda: see("document.getElementById('video-b').readyState") >= 3)
        see("document.getElementById('pair-play').click()")
        wait_for(lambda: see("document.getElementById('video-a').currentTime") > 0.5)
        wait_for(lambda: abs(float(see("document.getElementById('compare').dataset.apart"))) < 0.06)
        assert see.errors == []
        see.open(url + see("document.querySelector('#results a[target]').getAttribute('href')"))
        wait_for(lambda: see("document.title").endswith(("passed", "warned", "failed")))
        wait_for(lambda: see("document.documentElement.dataset.video"))
        assert see.errors == []
