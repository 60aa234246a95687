"""Enhance: the cleaned sound, its words and the verdict in one entry, under the key of sound and options."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from liveavatar.audio.enhance import Enhanced
from liveavatar.audio.transcribe import Word
from liveavatar.paths import REPO_ROOT
from tasks import enhance
from tasks.ingest import RAW, read_wav, write_raw
from tasks.store.keys import code_parts
from tasks.store.store import Entry, Store, Values
from tests.audio.sounds import syllables, write

SOUND = np.linspace(-0.5, 0.5, 16_000, dtype=np.float32)


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Options that the library was called with; it halves the sound."""
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    asked: list[dict[str, Any]] = []

    def library(audio: np.ndarray, **options: Any) -> Enhanced:
        asked.append(options)
        assert np.array_equal(audio, SOUND)
        word = Word(text="hello", start=0.0, end=0.5, probability=0.9)
        verdict = {"chosen": "raw", "reason": "clean", "snr_db": np.float64(30.0)}
        return Enhanced(audio=audio / 2, words=(word,), text="hello", language="en", verdict=verdict, candidates=[])

    monkeypatch.setattr("liveavatar.audio.enhance.enhance", library)
    return asked


def sound() -> Entry:
    def make(folder: Path) -> Values:
        write_raw(folder / RAW, SOUND)
        return {}

    return Store().build("sound", "k" * 8, make)


def test_an_entry_holds_the_cleaned_sound_its_words_and_the_verdict(calls: list[dict[str, Any]]) -> None:
    made = enhance.enhance.fn(sound(), "stationary", "tiny.en")
    assert calls == [{"denoise": "stationary", "whisper": "tiny.en"}]
    np.testing.assert_allclose(read_wav(made.path(enhance.CLEANED)), SOUND / 2, atol=1e-4)
    assert "hello" in json.dumps(json.loads(made.path(enhance.WORDS).read_text()))
    assert made.values["verdict"] == {"chosen": "raw", "reason": "clean", "snr_db": 30.0}
    assert (made.values["text"], made.values["language"]) == ("hello", "en")


def test_the_same_sound_and_options_are_not_cleaned_again(calls: list[dict[str, Any]]) -> None:
    raw = sound()
    first = enhance.enhance.fn(raw, "auto", "off")
    assert enhance.enhance.fn(raw, "auto", "off").hit
    assert len(calls) == 1
    for other in (("off", "off"), ("auto", "tiny.en")):
        made = enhance.enhance.fn(raw, *other)
        assert not made.hit
        assert made.key != first.key


@pytest.mark.nightly
def test_the_key_holds_the_code_that_runs(tmp_path: Path) -> None:
    wav = write(tmp_path / "sound.wav", syllables(1.0), 16_000)
    command = [sys.executable, "-m", "tests.tasks.audio_alone", "enhance", str(wav), str(tmp_path)]
    done = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == set(code_parts(*enhance.CODE))


@pytest.mark.parametrize(("whisper", "way_out"), [("tiny.en", True), ("base", False)])
def test_words_that_were_left_out_are_said_with_the_way_to_get_them(whisper: str, way_out: bool) -> None:
    line = enhance.unclear_line(12.4, whisper)
    assert line.startswith(f"words of 12 s are left out: Whisper {whisper} does not understand them")
    assert ("--whisper base" in line) is way_out
