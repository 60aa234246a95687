"""Features of arriving sound equal those of the whole track."""

import numpy as np
import pytest
import torch

from liveavatar.audio.encoders.live import LiveFeatures
from liveavatar.audio.encoders.whisper import SpeechEncoder, whisper_features
from liveavatar.config import MINI
from tests.audio.sounds import syllables


@pytest.mark.parametrize(
    ("seconds", "pieces"),
    [
        pytest.param(4.3, (1_000,), id="small pieces"),
        pytest.param(5.3, (7_680,), id="one block a piece", marks=pytest.mark.nightly),
        pytest.param(5.3, (48_000,), id="three seconds a piece", marks=pytest.mark.nightly),
        pytest.param(4.3, (1, 9_999, 160, 20_001), id="uneven pieces"),
        pytest.param(0.3, (100,), id="less than a block"),
    ],
)
def test_streamed_equals_whole(encoder: SpeechEncoder, seconds: float, pieces: tuple[int, ...]) -> None:
    audio = syllables(seconds)
    live = LiveFeatures(MINI.speech, encoder)
    blocks, start, turn = [], 0, 0
    while start < len(audio):
        piece = audio[start : start + pieces[turn % len(pieces)]]
        blocks += live.push(piece)
        start, turn = start + len(piece), turn + 1
    blocks += live.finish()
    whole = whisper_features(audio, MINI.speech, whisper_encoder=encoder)
    streamed = torch.cat(blocks, dim=2)
    assert streamed.shape == whole.shape
    torch.testing.assert_close(streamed, whole, atol=2e-3, rtol=1e-3)


def test_a_block_comes_as_soon_as_it_can_be_known(encoder: SpeechEncoder) -> None:
    live = LiveFeatures(MINI.speech, encoder)
    assert live.push(np.zeros(7680 + 2560 - 1, np.float32)) == []
    assert len(live.push(np.zeros(1, np.float32))) == 1
    assert live.position == 1


def test_no_sound_gives_no_blocks(encoder: SpeechEncoder) -> None:
    assert LiveFeatures(MINI.speech, encoder).finish() == []
