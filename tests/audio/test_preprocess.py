"""The files of the audio stages: whole or absent, readable by others, and equal however they are made."""

import errno
import json
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch

from liveavatar.audio import preprocess as module
from liveavatar.audio.feature_file import FeatureFile
from liveavatar.audio.ingest import load_audio
from liveavatar.audio.preprocess import preprocess, write_features, write_wav
from liveavatar.errors import CapacityError, InputError
from tests.audio.sounds import syllables, tone, write


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


def test_features_file_is_plain_and_reproducible(tmp_path: Path) -> None:
    wav = write(tmp_path / "in.wav", syllables(2.0), 16_000)
    write_features(wav, tmp_path / "a.pt")
    write_features(wav, tmp_path / "b.pt")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    body = torch.load(tmp_path / "a.pt", weights_only=True)
    assert {k: v for k, v in body.items() if k != "features"} == {
        "fps": 25,
        "sample_rate": 16_000,
        "model": "tiny.en",
        "num_frames": 50,
    }
    assert torch.equal(FeatureFile(tmp_path / "a.pt")[10:20].float(), body["features"][:, :, 10:20].float())


def test_wav_round_trip(tmp_path: Path) -> None:
    audio = syllables(1.0)
    write_wav(tmp_path / "a.wav", audio)
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav"), audio, atol=1 / 32_000)


def test_output_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="no folder can be made"):
        preprocess(write(tmp_path / "in.wav", tone()), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_full_disk_is_refused_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "stage_bytes", lambda *_: 1 << 60)
    with pytest.raises(CapacityError, match="MB are free"):
        preprocess(write(tmp_path / "in.wav", tone()), tmp_path / "out")


def test_disk_that_fills_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.wav"
    target.write_bytes(b"before")

    def full(f: BinaryIO, *_: object, **__: object) -> None:
        f.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.soundfile, "write", full)
    with pytest.raises(CapacityError, match="disk is full"):
        write_wav(target, tone())
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]
