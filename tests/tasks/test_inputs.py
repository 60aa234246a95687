"""Inputs of a job are opened once, before anything starts; the stages after it work with what was found."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from liveavatar.errors import InputError
from liveavatar.files import sha256
from tasks import ingest, inputs
from tasks.inputs import check_inputs

_opened: Counter[str] = Counter()
_counting = False


def _count(event: str, arguments: tuple[Any, ...]) -> None:
    if _counting and event == "open" and isinstance(arguments[0], str | Path):
        _opened[Path(arguments[0]).name] += 1


sys.addaudithook(_count)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often a file of this name was opened, by Python or by FFmpeg."""
    open_container: Callable[..., Any] = av.open

    def counted(file: Any, *args: Any, **kwargs: Any) -> Any:
        _opened[Path(str(file)).name] += 1
        return open_container(file, *args, **kwargs)

    global _counting
    monkeypatch.setattr(av, "open", counted)
    _opened.clear()
    _counting = True
    yield _opened
    _counting = False


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    tone = 0.3 * np.sin(2 * np.pi * 220 * np.arange(16_000) / 16_000)
    wavfile.write(tmp_path / "voice.wav", 16_000, tone.astype(np.float32))
    Image.fromarray(np.full((384, 256, 3), 127, np.uint8)).save(tmp_path / "face.png")
    (tmp_path / "pose.csv").write_text("time,yaw,pitch,roll\n0,0,0,0\n1,5,0,0\n")
    return {"image": tmp_path / "face.png", "audio": tmp_path / "voice.wav", "pose": tmp_path / "pose.csv"}


def test_stages_open_no_input_again(files: dict[str, Path], tiny_model: Path, opened: Counter[str]) -> None:
    job = check_inputs(**files)
    checked = Counter(opened)
    assert {name: checked[name] for name in ("voice.wav", "face.png", "pose.csv")} == {
        "voice.wav": 5,  # for the header and the samples FFmpeg and ourselves, for the digest once
        "face.png": 2,  # its pixels, its digest
        "pose.csv": 2,  # its table, its digest
    }
    first = ingest.ingest.fn(job, str(tiny_model), None, None)
    assert not first.hit
    assert (opened["voice.wav"], opened["face.png"]) == (5, 2)
    before = Counter(opened)
    assert ingest.ingest.fn(job, str(tiny_model), None, None).hit
    assert all(opened[path.name] == before[path.name] for path in files.values())


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
    kept = ingest.ingest.fn(check_inputs(**files), str(tiny_model), None, None)
    monkeypatch.setattr(inputs, "MAX_HELD_BYTES", 1000)
    monkeypatch.setenv("LIVEAVATAR_HOME", str(files["audio"].parent / "other"))
    job = check_inputs(**files)
    assert (job.samples, job.pixels) == (None, None)
    again = ingest.ingest.fn(job, str(tiny_model), None, None)
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
