"""Driving features: a plain file, the same for the same sound."""

from pathlib import Path

import torch

from liveavatar.audio.feature_file import FeatureFile
from liveavatar.audio.features import write_features
from tests.audio.sounds import syllables, write


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
