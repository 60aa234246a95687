"""The command `noisereduce`."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from liveavatar.tools.noisereduce import main

RATE = 44_100


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    """Two seconds of noise in stereo, the second half with beeps in it."""
    random = np.random.default_rng(2)
    sound = random.normal(0, 0.02, (2 * RATE, 2))
    t = np.arange(RATE) / RATE
    sound[RATE:] += (0.3 * np.sin(2 * np.pi * 300 * t) * (t * 5 % 1 < 0.5))[:, None]
    soundfile.write(tmp_path / "input.wav", sound, RATE)
    return tmp_path / "input.wav"


@pytest.mark.parametrize("options", [["--stationary"], []])
def test_noise_falls_and_the_sound_stays(noisy: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    out = noisy.with_name("cleaned.wav")
    assert main(["-i", str(noisy), "-o", str(out), *options]) == 0
    assert capsys.readouterr().out == f"{out}: 2.0 s\n"
    cleaned, rate = soundfile.read(out)
    assert (rate, cleaned.shape) == (16_000, (32_000,))
    assert np.std(cleaned[2_000:14_000]) < 0.005, "a quarter of the noise at most"
    assert np.std(cleaned[16_000:]) > 0.4 * 0.15, "the beeps stay"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["-i", "none.wav", "-o", "c.wav"], "no such file", id="missing input"),
        pytest.param(["-i", "input.wav", "-o", "c.mp3"], "name a wav file", id="another format"),
        pytest.param(["-i", "input.wav", "-o", "new/c.wav"], "there is no folder new", id="no folder"),
        pytest.param(["-i", "input.wav", "-o", "c.wav", "--strength", "2"], "outside 0..1", id="strength"),
    ],
)
def test_refuses(
    noisy: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(noisy.parent)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in noisy.parent.iterdir()] == ["input.wav"]
