"""A complete recording as the sound of a render: which blocks it has, and that none of it arrives late."""

from pathlib import Path

import pytest
import torch

from liveavatar.audio.feature_file import save_features
from liveavatar.config import TINY
from liveavatar.render.sound import FileSound


@pytest.mark.parametrize(("num_frames", "blocks"), [(1, 1), (12, 1), (13, 2), (48, 4)])
def test_blocks_are_there_up_to_the_end(num_frames: int, blocks: int, tmp_path: Path) -> None:
    features = torch.randn(TINY.dit.audio_layers, TINY.dit.audio_dim, num_frames)
    save_features(tmp_path / "features.pt", features)
    sound = FileSound(features=tmp_path / "features.pt", audio=tmp_path / "a.wav", num_frames=num_frames).open(TINY)
    assert [sound.ready(block) for block in range(6)] == [True] * blocks + [False] * (6 - blocks)
    assert (sound.num_frames, sound.audio, sound.delay_ms(0)) == (num_frames, tmp_path / "a.wav", None)
    assert sound.final_audio(tmp_path) is None
    assert sound.segment_frames == 48, "a segment is four blocks, and a snapshot lies at its end"
