"""The report page: complete, offline, safe against its own content, and working in a browser where one is here."""

import base64
import io
import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from liveavatar.errors import InputError
from liveavatar.media.film import FilmWriter
from liveavatar.report.page import SHEET_FRAMES, sheet_and_moments, write_report
from liveavatar.timing import SAMPLE_RATE
from tests.browser import CHROMIUM, browser, needs_chromium, wait_for
from tests.puppet import babble

HOSTILE = "<script>document.title='owned'</script>"


class Tags(HTMLParser):
    """Collects tags, what they load, and whether they nest."""

    VOID = ("meta", "img", "line", "rect", "polygon", "polyline", "circle", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.loads += [v or "" for k, v in attrs if k in ("src", "href", "poster")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def frames_table(num_frames: int, faces: bool = True) -> pd.DataFrame:
    from liveavatar.quality import sync

    audio, openness = babble(num_frames / 25, seed=1)
    speech = sync.Speech.of(audio, num_frames)
    nothing = np.full(num_frames, np.nan)
    return pd.DataFrame(
        {
            "frame": np.arange(num_frames),
            "seconds": np.arange(num_frames) / 25,
            "openness": openness if faces else nothing,
            "envelope": speech.envelope_T,
            "vowel_envelope": speech.vowels_T,
            "silence": sync.silence_mask(speech.envelope_T),
            "identity": np.where(np.arange(num_frames) % 5 == 0, 0.9, np.nan) if faces else nothing,
            "sharpness_ratio": 0.8 + 0 * openness if faces else nothing,
            "change": np.r_[np.nan, np.full(num_frames - 1, 2.0)],
        }
    )


def make_run(folder: Path, num_frames: int = 100, faces: bool = True) -> dict[str, Any]:
    """A run's folder, and its report."""
    from scipy.io import wavfile

    (folder / "audio").mkdir(parents=True)
    audio, _ = babble(num_frames / 25, seed=1)
    wavfile.write(folder / "audio" / "cleaned.wav", SAMPLE_RATE, audio)
    words = [{"start": 0.3 * i, "end": 0.3 * i + 0.25, "text": f" word{i}", "probability": 0.9} for i in range(8)]
    words.append({"start": 2.6, "end": 2.9, "text": HOSTILE, "probability": None})
    (folder / "audio" / "words.json").write_text(json.dumps({"text": "", "language": "en", "words": words}))
    rng = np.random.default_rng(0)
    with FilmWriter(folder / "video.mp4", size=(96, 64), audio=audio) as writer:
        writer.write(rng.integers(0, 255, (num_frames, 64, 96, 3), np.uint8))
        writer.close()
    frames_table(num_frames, faces).to_parquet(folder / "frames.parquet")
    blocks = pd.DataFrame({"block": range(9), "start_s": np.arange(9) * 0.48, "block_ms": [300.0] * 8 + [600.0]})
    blocks = blocks.assign(rank0_host_gb=1.5, rank0_gpu_gb=np.linspace(20, 21.5, 9), rank1_gpu_gb=12.0)
    blocks.to_parquet(folder / "blocks.parquet")
    return {
        "status": "failed",
        "checks": [
            {"name": "av_offset_frames", "status": "passed", "value": 0, "limit": "-3 to 1", "reason": "fine"},
            {"name": "lip_sync", "status": "failed", "value": 0.51234567, "limit": "at most 0.4", "reason": HOSTILE},
        ],
        "metrics": {"av_offset_frames": 0, "lip_sync": 0.51234567, "silent_lip": None},
        "reasons": {"silent_lip": "there is no silence"},
        "timing": {
            "ttff_s": 0.81,
            "fps": 27.5,
            "deadline_misses": 1,
            "stages": [
                {"rank": 0, "role": "steps 1-2", "step_ms": [41.5, 42.5], "decode_ms": None, "wait_ms": 7.25},
                {"rank": 1, "role": "steps 3-4 + decoder", "step_ms": [43.5, 44.5], "decode_ms": 98.5, "wait_ms": 0.0},
            ],
        },
        "memory": {"peak_rss_mb": 812, "peak_gpu_mb": None, "ranks": [{"rank": 0, "gpu_total_gb": 24.0}]},
        "plan": {"fits": True, "per_gpu_gb": [0.1, 0.2], "nearest": [{"size": "384*256"}]},
        "inputs": {
            "audio": {"name": "a.wav", "sha256": "ab" * 32},
            "image": {"name": "i.png", "check": {"line": "the portrait may not speak: the face is small"}},
        },
        "parameters": {"prompt": HOSTILE, "seed": 420},
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    return write_report(folder, make_run(folder))


def test_the_page_has_everything(page: Path) -> None:
    html = page.read_text()
    for text in (
        "demo",
        "Contact sheet",
        "Sound and words",
        "Mouth against sound",
        "Rendering time of each block",
        "Memory of the GPU while it rendered, GB",
        "Memory of each process while it rendered, GB",
        "at most 21.5 GB",
        "process 1",
        "Checks",
    ):
        assert text in html
    for text in ("0.512", "there is no silence", "384*256", "1 of 9 blocks", "word3", "0.1, 0.2"):
        assert text in html
    shown = re.sub(r' title="[^"]*"', "", html)
    for name in ("ttff_s", "peak_rss_mb", "lip_sync", "deadline_misses", "0.51234"):
        assert name not in shown, "in words, rounded"
    for text in ("Do not publish", "Mouth opens as wide", "0.81 s", "to the first picture", "Look here first"):
        assert text in html
    assert "Before rendering: the portrait may not speak: the face is small." in html
    assert "<td>steps 1-2</td><td>41.5, 42.5</td>" in html
    assert "{&#39;rank&#39;" not in html, "a table, not the text of a list"
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert tags.counts["video"] == 1
    assert tags.counts["img"] == SHEET_FRAMES
    assert tags.counts["svg"] >= 6


def test_the_page_needs_nothing_else(page: Path) -> None:
    tags = Tags()
    tags.feed(page.read_text())
    assert tags.loads
    assert all(load.startswith("data:") for load in tags.loads)
    assert not re.search(r"@import|url\(", page.read_text())


def test_content_cannot_become_markup(page: Path) -> None:
    html = page.read_text()
    assert HOSTILE not in html
    assert html.count("&lt;script&gt;document.title") >= 3
    tags = Tags()
    tags.feed(html)
    assert tags.counts["script"] == 1


def test_a_long_video_is_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("liveavatar.report.page.EMBED_BYTES", 100)
    assert 'src="video.mp4"' in write_report(tmp_path / "run", make_run(tmp_path / "run")).read_text()


def test_a_run_with_little_in_it_still_has_a_page(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    make_run(folder, faces=False)
    for name in ("blocks.parquet", "audio/words.json", "audio/cleaned.wav"):
        (folder / name).unlink()
    html = write_report(folder, {"status": "warned", "checks": [], "metrics": {}}, name="bare").read_text()
    assert "bare" in html
    assert "Mouth against sound" not in html
    assert "Sound and words" in html  # from the video's own track


def test_a_run_without_a_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="video"):
        write_report(tmp_path, {"status": "passed", "checks": [], "metrics": {}})


def test_contact_sheet_spans_the_video(page: Path) -> None:
    pictures, _ = sheet_and_moments(page.parent / "video.mp4", 100, None, {})
    assert [p["frame"] for p in pictures] == [0, 9, 18, 27, 36, 45, 54, 63, 72, 81, 90, 99]
    assert pictures[-1]["seconds"] == pytest.approx(3.96)


def test_the_contact_sheet_is_one_picture_too(page: Path) -> None:
    from PIL import Image

    pictures, _ = sheet_and_moments(page.parent / "video.mp4", 100, None, {})
    first = Image.open(io.BytesIO(base64.b64decode(pictures[0]["src"].partition(",")[2])))
    with Image.open(page.parent / "sheet.jpg") as sheet:
        assert sheet.size == (4 * first.width, 3 * first.height)
        corner = np.asarray(sheet.crop((0, 0, *first.size)), int)
        assert np.abs(corner - np.asarray(first, int)).mean() < 20, "pictures of noise, compressed twice"


@needs_chromium
def test_a_phone_shows_the_page_without_overflow(page: Path, tmp_path: Path) -> None:
    with browser(page.as_uri(), tmp_path) as see:
        see.resize(390, 844)
        wait_for(lambda: see("document.documentElement.dataset.video") == "4.00")
        assert see.overflow() <= 0
        reasons = "[...document.querySelectorAll('td.reason')].map(cell => cell.getBoundingClientRect().right)"
        assert 0 < max(see(reasons)) <= 390, "reasons are read without moving the table aside"
        see("document.querySelectorAll('details').forEach(part => { part.open = true })")
        assert see.overflow() <= 0
        assert see.errors == []


@needs_chromium
def test_a_browser_that_cannot_play_the_embedded_video_takes_the_file(page: Path, tmp_path: Path) -> None:
    copy = page.with_name("broken.html")
    copy.write_text(re.sub(r'src="data:video/mp4;base64,[^"]*"', 'src="data:video/mp4;base64,AAAA"', page.read_text()))
    with browser(copy.as_uri(), tmp_path) as see:
        wait_for(lambda: see("document.documentElement.dataset.video") == "4.00")
        assert see("video.currentSrc").endswith("/video.mp4")


@needs_chromium
def test_a_browser_opens_the_page(page: Path, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    flags = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--dump-dom"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={tmp_path}", "--virtual-time-budget=8000"),
    )
    done = subprocess.run([CHROMIUM, *flags, page.as_uri()], capture_output=True, text=True, timeout=90, check=True)
    assert 'data-video="4.00"' in done.stdout  # the embedded video loaded, and the script ran
    assert "<title>demo: failed</title>" in done.stdout
    assert done.stdout.count('class="head" y1') >= 6
