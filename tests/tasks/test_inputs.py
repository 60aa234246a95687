"""Inputs of a job are opened once, before anything starts; the stages after it work with what was found."""

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from liveavatar.errors import InputError
from liveavatar.files import sha256
from liveavatar.isolation.caller import Workers
from liveavatar.media.framing import Framing
from tasks import ingest, inputs
from tasks.inputs import check_inputs
from tests.isolation import planted

IN_OPEN = 0x20  # from linux/inotify.h
EVENT = struct.Struct("iIII")


class Watch:
    """Files of a folder that any process opens (Linux)."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK)
        assert libc.inotify_add_watch(self._descriptor, os.fsencode(folder), IN_OPEN) >= 0

    def opened(self) -> set[str]:
        """Return the names of the files that were opened since the last look."""
        names, data = set(), b""
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._descriptor, 65_536):
                data += part
        while data:
            length = EVENT.unpack_from(data)[3]
            names.add(data[EVENT.size : EVENT.size + length].rstrip(b"\0").decode())
            data = data[EVENT.size + length :]
        return names

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    watch = Watch(tmp_path)
    yield watch
    watch.close()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    tone = 0.3 * np.sin(2 * np.pi * 220 * np.arange(16_000) / 16_000)
    wavfile.write(tmp_path / "voice.wav", 16_000, tone.astype(np.float32))
    Image.fromarray(np.full((384, 256, 3), 127, np.uint8)).save(tmp_path / "face.png")
    (tmp_path / "pose.csv").write_text("time,yaw,pitch,roll\n0,0,0,0\n1,5,0,0\n")
    return {"image": tmp_path / "face.png", "audio": tmp_path / "voice.wav", "pose": tmp_path / "pose.csv"}


def test_stages_open_no_input_again(files: dict[str, Path], tiny_model: Path, watch: Watch) -> None:
    names = {path.name for path in files.values()}
    watch.opened()
    job = check_inputs(**files)
    assert watch.opened() >= names
    assert not ingest.ingest.fn(job, str(tiny_model), Framing(), None).hit
    assert watch.opened() & names == {"pose.csv"}, "only a track is made from its file, whose length is the sound's"
    assert ingest.ingest.fn(job, str(tiny_model), Framing(), None).hit
    assert not watch.opened() & names


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("crashing", r"reading it crashes \(SIGSEGV\)"),
        ("aborting", r"reading it crashes \(SIGABRT\)"),
        ("hanging", "reading it came no further for 2 s and was given up"),
    ],
)
def test_a_file_that_strikes_its_decoder_is_refused(
    fault: str, says: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the worker, every file whose name says so crashes, aborts or hangs where it is opened."""
    monkeypatch.setenv("PYTHONPATH", str(Path(planted.__file__).parent), prepend=os.pathsep)
    workers = Workers(silent_s=2.0)
    monkeypatch.setattr("tasks.inputs.isolated", workers.call)
    for name in ("image", "audio", "pose") if fault == "crashing" else ("image",):
        bad = files[name].rename(files[name].with_name(f"{fault}-{files[name].name}"))
        with pytest.raises(InputError, match=rf"^{bad}: {says}"):
            check_inputs(**{**files, name: bad})
        bad.rename(files[name])
    assert check_inputs(**files).samples is not None, "the next files are read"
    workers.end()


def test_digests_and_samples_are_handed_on(files: dict[str, Path]) -> None:
    job = check_inputs(**files)
    assert job.audio is not None
    assert job.samples is not None
    assert (job.audio.path, job.audio.sha256) == (files["audio"], sha256(files["audio"]))
    assert job.image.sha256 == sha256(files["image"])
    assert job.samples.shape == (16_000,)
    piped = check_inputs(files["image"], None, None)
    assert (piped.audio, piped.samples, piped.pose) == (None, None, None)


def test_a_large_input_is_not_kept_in_memory(
    files: dict[str, Path], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ingest.ingest.fn(check_inputs(**files), str(tiny_model), Framing(), None)
    monkeypatch.setattr(inputs, "MAX_HELD_BYTES", 1000)
    monkeypatch.setenv("LIVEAVATAR_HOME", str(files["audio"].parent / "other"))
    job = check_inputs(**files)
    assert (job.samples, job.pixels) == (None, None)
    again = ingest.ingest.fn(job, str(tiny_model), Framing(), None)
    assert not again.hit
    assert (again.sound.files, again.portrait.files) == (kept.sound.files, kept.portrait.files)


@pytest.mark.parametrize("name", ["image", "audio", "pose"])
def test_a_name_that_is_not_utf8_is_refused(files: dict[str, Path], name: str) -> None:
    renamed = files[name].rename(files[name].with_name("Jos\udce9"))
    with pytest.raises(InputError, match=r"not UTF-8 .* rename it") as caught:
        check_inputs(**{**files, name: renamed})
    assert str(caught.value).isascii()


@pytest.mark.parametrize("name", ["image", "audio", "pose"])
def test_a_missing_file_is_refused(files: dict[str, Path], name: str) -> None:
    files[name].unlink()
    with pytest.raises(InputError):
        check_inputs(**files)
