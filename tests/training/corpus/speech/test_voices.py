"""Voices by name, the mixture of a speaker, and events on the sound of each engine."""

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from liveavatar.errors import InputError
from liveavatar.training.corpus.speech import voices
from liveavatar.training.corpus.speech.phonemes import Viseme
from liveavatar.training.corpus.speech.voices import FliteVoice, KokoroVoice, open_voice


@pytest.mark.parametrize("name", ["nonsense", "festival:x", "piper:", ""])
def test_unknown_voice_is_named(name: str) -> None:
    with pytest.raises(InputError, match=f"no such voice: '{name}'"):
        open_voice(name, {})


class Engine:
    """An engine that notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.styles = {name: np.full((4, 1, 2), value) for name, value in (("a", 1.0), ("b", 3.0))}

    def say(self, *asked: Any) -> None:
        self.asked.append(asked)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        pytest.param("espeak:en-us+f3@60", ("hello", "en-us+f3", 182, 60), id="pitch"),
        pytest.param("espeak:en-gb", ("hello", "en-gb", 182, 50), id="the voice's own pitch"),
    ],
)
def test_espeak_voices_share_one_library(name: str, asked: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Engine] = []
    monkeypatch.setattr(voices, "EspeakLibrary", lambda: opened.append(Engine()) or opened[-1])
    shared: dict[str, Any] = {}
    open_voice("espeak:other", shared)
    open_voice(name, shared).say("hello", 1.1)
    assert len(opened) == 1
    assert opened[0].asked == [asked]


@pytest.mark.parametrize(("name", "value"), [("kokoro:a", 1.0), ("kokoro:a*0.75+b*0.25", 1.5), ("kokoro:a+b", 4.0)])
def test_a_speaker_is_a_mixture_of_styles(name: str, value: float) -> None:
    model = Engine()
    open_voice(name, {"kokoro": model}).say("hello", 0.9)
    text, rate, style = model.asked[0]
    assert (text, rate) == ("hello", 0.9)
    assert np.array_equal(style, np.full((4, 1, 2), value))


def test_an_unknown_speaker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[object] = []
    monkeypatch.setattr(voices, "KokoroModel", lambda folder: folders.append(folder) or Engine())
    with pytest.raises(InputError, match=r"no speaker 'c'; --kokoro_voices"):
        open_voice("kokoro:a+c", {"voices": Path("more")})
    assert folders == [Path("more")]


@pytest.fixture
def flite(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A flite that writes 0.5 s of noise and prints the segments of two utterances."""
    fake = SimpleNamespace(commands=[], printed="pau:0.1 aa:0.2\npau:0.05 aa:0.25\n", code=0)

    def run(command: list[str], **_: object) -> Any:
        fake.commands.append(command)
        sound = np.linspace(-0.5, 0.5, 8000, dtype=np.float32)
        soundfile.write(command[command.index("-o") + 1], sound, 16_000, subtype="FLOAT")
        return SimpleNamespace(returncode=fake.code, stdout=fake.printed, stderr="no voice\n")

    monkeypatch.setattr(subprocess, "run", run)
    return fake


def test_segments_of_utterances_follow_one_another(flite: SimpleNamespace) -> None:
    spoken = open_voice("flite:slt@180", {}).say("a. a.", 1.25)
    assert (spoken.sample_rate, len(spoken.audio), spoken.audio.dtype) == (16_000, 8000, np.float32)
    vowels = [(round(s, 3), round(e, 3)) for s, e, kind in spoken.events if kind == Viseme.A]
    assert vowels == [(0.1, 0.2), (0.25, 0.45)]
    (command,) = flite.commands
    assert command[:5] == ["flite", "-voice", "slt", "--setf", "duration_stretch=0.800"]
    assert "int_f0_target_mean=180.0" in command


def test_flite_keeps_its_own_pitch(flite: SimpleNamespace) -> None:
    FliteVoice("rms").say("a", 1.0)
    assert not any("f0" in word for word in flite.commands[0])


@pytest.mark.parametrize(("code", "printed"), [(1, "aa:0.1"), (0, "")])
def test_a_failing_flite_says_so(code: int, printed: str, flite: SimpleNamespace) -> None:
    flite.code, flite.printed = code, printed
    with pytest.raises(InputError, match="flite -voice slt failed on 'a': no voice"):
        FliteVoice("slt").say("a", 1.0)


def test_espeak_speaks_where_it_is_installed() -> None:
    try:
        library = voices.EspeakLibrary()
    except OSError:
        pytest.skip("libespeak-ng is not installed")
    slow, fast = (library.say("papa", "en-us", words, 50) for words in (120, 240))
    assert len(slow.audio) > 1.3 * len(fast.audio)
    assert {Viseme.A, Viseme.SIL} <= {kind for _, _, kind in slow.events}
    assert slow.events[-1][1] == pytest.approx(len(slow.audio) / slow.sample_rate, abs=0.01)
    with pytest.raises(InputError, match="no voice 'zz-nobody'"):
        library.say("papa", "zz-nobody", 165, 50)


def test_a_mixture_is_made_once() -> None:
    model = Engine()
    voice = KokoroVoice(model, {"a": 0.5, "b": 0.5})  # type: ignore[arg-type]
    model.styles.clear()
    voice.say("x", 1.0)
    assert model.asked[0][2].mean() == 2.0
