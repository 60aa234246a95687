"""The command `python -m liveavatar.tools.audio_preprocess`."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from liveavatar.audio.encoders import low_rank
from liveavatar.paths import REPO_ROOT
from liveavatar.tools.audio_preprocess import main
from tests.corrections import tuned_copy


def _wav(path: Path, seconds: float) -> Path:
    t = np.arange(int(seconds * 16_000)) / 16_000
    soundfile.write(path, 0.2 * np.sin(2 * np.pi * 150 * t), 16_000)
    return path


def test_writes_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "features.pt"
    assert main(["--input", str(_wav(tmp_path / "a.wav", 1.0)), "--output", str(out)]) == 0
    assert torch.load(out, weights_only=True)["num_frames"] == 25
    assert "25 frames" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "output", "message"),
    [
        pytest.param(None, "f.pt", "no such file", id="missing input"),
        pytest.param(0.1, "f.pt", "at least 0.5 s", id="too short"),
        pytest.param(1.0, ".", "it is a directory", id="output is a directory"),
        pytest.param(1.0, "a.wav/f.pt", "no folder can be made", id="output below a file"),
    ],
)
def test_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seconds: float | None, output: str, message: str
) -> None:
    wav = tmp_path / "a.wav"
    if seconds is not None:
        _wav(wav, seconds)
    assert main(["--input", str(wav), "--output", str(tmp_path / output)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "f.pt").exists()


def test_the_speech_encoder_is_the_model_s(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its corrections lie in the model directory."""
    tuned, made = tuned_copy(tiny_model, tmp_path / "tuned"), []
    for model in (tiny_model, tuned):
        made.append(tmp_path / f"{model.name}.pt")
        options = ["--input", str(_wav(tmp_path / "a.wav", 1.0)), "--model", str(model), "--output", str(made[-1])]
        assert main(options) == 0
    plain, other = (torch.load(file, weights_only=True)["features"] for file in made)
    assert not torch.equal(plain, other)
    (tuned / low_rank.FILE).unlink()
    assert main(options) == 2
    assert "has no speech.safetensors" in capsys.readouterr().err


def test_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "liveavatar.tools.audio_preprocess", "--input", "/none.wav", "--output", "/tmp/none.pt"],
        cwd=REPO_ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
