"""Preprocessing: every file of the audio stages in one folder, or a refusal before work."""

import json
from pathlib import Path

import numpy as np
import pytest

from liveavatar.audio import preprocess as module
from liveavatar.audio.feature_file import FeatureFile
from liveavatar.audio.ingest import load_audio
from liveavatar.audio.outputs import write_wav
from liveavatar.audio.preprocess import preprocess
from liveavatar.errors import CapacityError, InputError
from tests.audio.sounds import tone, write


def test_preprocess_writes_every_file(tmp_path: Path, spoken: np.ndarray) -> None:
    write_wav(tmp_path / "in.wav", spoken)
    done = preprocess(tmp_path / "in.wav", tmp_path / "a" / "out")
    names = ["audio_report.json", "cleaned.wav", "features.pt", "words.json"]
    assert sorted(p.name for p in done.cleaned.parent.iterdir()) == names
    assert len(load_audio(done.cleaned)) == len(spoken)
    words = json.loads(done.words.read_text())
    assert words["text"]
    assert set(words["words"][0]) == {"start", "end", "text", "probability"}
    assert json.loads(done.report.read_text())["verdict"]["chosen"] == done.verdict["chosen"]
    assert done.num_frames == -(-len(spoken) // 640)
    assert FeatureFile(done.features).shape == (5, 768, -(-done.num_frames // 12) * 12)


def test_output_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="no folder can be made"):
        preprocess(write(tmp_path / "in.wav", tone()), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_full_disk_is_refused_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "stage_bytes", lambda *_: 1 << 60)
    with pytest.raises(CapacityError, match="MB are free"):
        preprocess(write(tmp_path / "in.wav", tone()), tmp_path / "out")
