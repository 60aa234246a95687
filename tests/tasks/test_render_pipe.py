"""The listener of a pipe: all of the sound, never far ahead of the video; an interrupted render leaves it in a file."""

import errno
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from scipy.io import wavfile

from liveavatar.audio.enhance import Enhanced
from liveavatar.engine.settings import RenderSettings
from liveavatar.errors import CapacityError, Interrupted
from liveavatar.media.pcm import SECOND_BYTES, PcmPipe
from liveavatar.timing import BLOCK_SECONDS
from tasks import render_pipe
from tasks.enhance import CLEANED
from tasks.ingest import PORTRAIT, RAW, read_wav, write_raw
from tasks.render import ProgressBoard, RenderOptions
from tasks.render_pipe import AHEAD_SECONDS, LEFT_OUT, Listener, discard
from tasks.store.store import Entry, Store, Values

CHUNK = (bytes(range(256)) * 100)[: SECOND_BYTES // 2]  # half a second
OPTIONS = RenderOptions(settings=RenderSettings(prompt="p"), online=True)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))


class FakePipe:
    """A pipe with so many halves of a second of sound."""

    def __init__(self, halves: int, error: OSError | None = None) -> None:
        self.halves, self.error = halves, error

    def chunks(self, stopped: Callable[[], bool]) -> Iterator[bytes]:
        for _ in range(self.halves):
            if stopped():
                return
            yield CHUNK
        if self.error is not None:
            raise self.error


def listener(halves: int, max_seconds: float | None = None, error: OSError | None = None) -> Listener:
    return Listener(cast(PcmPipe, FakePipe(halves, error)), max_seconds)


def heard(listening: Listener) -> bytes:
    return (listening.folder / "sound.pcm").read_bytes()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_all_sound_is_written_and_its_end_marked() -> None:
    listening = listener(3)
    assert heard(listening) == b""
    assert not (listening.folder / "end").exists()
    listening.run()
    assert heard(listening) == 3 * CHUNK
    assert (listening.folder / "end").exists()
    discard(listening)
    assert not listening.folder.exists()


def test_sound_beyond_the_clips_is_left_in_the_pipe() -> None:
    listening = listener(100, max_seconds=0.75)
    listening.start()
    listening.join(10)
    assert not listening.is_alive()
    assert heard(listening) == (2 * CHUNK)[: round(0.75 * SECOND_BYTES)]


def test_a_faster_writer_waits_at_the_pipe_for_the_video() -> None:
    listening = listener(100)
    follow = listening.following(cast(ProgressBoard, SimpleNamespace(show=lambda _: None)))
    listening.start()
    ahead = (AHEAD_SECONDS + 0.5) * SECOND_BYTES  # the chunk that was too much has been read
    wait_for(lambda: len(heard(listening)) == ahead)
    time.sleep(0.1)
    assert len(heard(listening)) == ahead
    follow(cast(Any, SimpleNamespace(done=10)))
    rendered = 10 * BLOCK_SECONDS
    wait_for(lambda: len(heard(listening)) > (AHEAD_SECONDS + rendered) * SECOND_BYTES)
    time.sleep(0.1)
    assert len(heard(listening)) <= (AHEAD_SECONDS + rendered + 0.5) * SECOND_BYTES
    listening.stop()
    listening.join(10)
    assert not listening.is_alive()


def test_two_pipes_have_folders_of_their_own() -> None:
    first, second = listener(1), listener(1)
    assert first.folder != second.folder
    assert first.token != second.token


def test_an_interrupted_sound_is_kept_in_a_file_that_can_be_rendered() -> None:
    listening = listener(2)
    listening.start()
    path = listening.keep()
    rate, samples = wavfile.read(path)
    assert rate == 16_000
    assert samples.tobytes() == heard(listening)


def portrait() -> Entry:
    def make(folder: Path) -> Values:
        (folder / PORTRAIT).write_bytes(b"a picture")
        return {}

    return Store().build("portrait", "k" * 8, make)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the engine raises when it is asked to render."""
    raised: list[Any] = []

    def run_on_engine(*_: Any) -> Any:
        if raised:
            raise raised[0]
        return SimpleNamespace(result="result", facts=lambda: {"fps": 25.0})

    def move_products(result: Any, folder: Path) -> None:
        (folder / "video.mp4").write_text(result)

    monkeypatch.setattr(render_pipe, "run_on_engine", run_on_engine)
    monkeypatch.setattr(render_pipe, "announce_playlist", lambda _: None)
    monkeypatch.setattr(render_pipe, "move_products", move_products)
    monkeypatch.setattr(render_pipe, "engine_spec", lambda *_: None)
    return raised


def render(listening: Listener, tiny_model: Path) -> Entry:
    return render_pipe.render_pipe.fn(listening, OPTIONS, tiny_model, "0" * 64, portrait())


def test_a_render_holds_the_sound_that_was_heard(engine: list[Any], tiny_model: Path) -> None:
    listening = listener(2)
    listening.run()
    made = render(listening, tiny_model)
    assert made.values == {"fps": 25.0}
    assert made.path("video.mp4").read_text() == "result"
    assert len(read_wav(made.path(CLEANED))) == 16_000
    assert not listening.folder.exists()
    other = listener(2)
    other.run()
    assert render(other, tiny_model).key != made.key, "no two pipes carry the same sound"


def test_ctrl_c_names_the_file_with_the_sound(engine: list[Any], tiny_model: Path) -> None:
    listening = listener(2)
    listening.start()
    engine.append(Interrupted("stopped"))
    with pytest.raises(Interrupted, match=r"heard\.wav: render that file"):
        render(listening, tiny_model)
    assert (listening.folder / "heard.wav").is_file()


def test_sound_that_could_not_be_written_fails_the_render(engine: list[Any], tiny_model: Path) -> None:
    listening = listener(2, error=OSError(errno.ENOSPC, "No space left on device"))
    thread = threading.Thread(target=listening.run)
    thread.start()
    thread.join()
    with pytest.raises(CapacityError, match="the sound cannot be written \\(No space left on device\\)"):
        render(listening, tiny_model)
    assert not list(Store().root.glob("render/*/*"))


def test_words_come_afterwards_and_the_sound_stays_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = np.linspace(-0.5, 0.5, 8_000, dtype=np.float32)

    def make(folder: Path) -> Values:
        write_raw(folder / CLEANED, sound)
        return {}

    def library(audio: np.ndarray, denoise: str, whisper: str) -> Enhanced:
        assert (denoise, whisper) == ("off", "tiny.en")
        verdict = {"reason": "clean", "loudness_before": -20.0, "loudness_after": -23.0}
        return Enhanced(audio=audio / 2, words=(), text="hello", language="en", verdict=verdict, candidates=[])

    monkeypatch.setattr("liveavatar.audio.enhance.enhance", library)
    made = render_pipe.transcribe.fn(Store().build("render", "k" * 8, make), "tiny.en")
    assert np.array_equal(read_wav(made.path(CLEANED)), sound)
    assert made.path(RAW).read_bytes() == made.path(CLEANED).read_bytes()
    assert made.values["verdict"] == {"reason": LEFT_OUT, "loudness_before": -20.0, "loudness_after": -20.0}
    assert (made.values["seconds"], made.values["num_samples"]) == (0.5, 8_000)
