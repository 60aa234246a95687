"""Windows of sound that still arrives: each block has its own, as long as allowed, as soon as it is complete."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from liveavatar.audio.encoders.windows import StreamedFeatures, window_samples
from liveavatar.config import MINI
from liveavatar.timing import BLOCK_SAMPLES

SPEECH = replace(MINI.speech, window_seconds=1.2, lookahead_seconds=0.1)
LENGTH, AFTER = 19_200, 1_600
SOUND = np.arange(5 * BLOCK_SAMPLES + 100, dtype=np.float32)


class Ears:
    """An encoder that keeps the windows it is given."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, np.ndarray]] = []

    def features(self, window: np.ndarray, block: int) -> Tensor:
        self.heard.append((block, window))
        return torch.full((1, 1, 12), float(block))


@pytest.mark.parametrize("piece", [1_000, BLOCK_SAMPLES, 100_000])
@pytest.mark.parametrize("first", [0, 3])
def test_a_window_is_the_newest_sound(piece: int, first: int) -> None:
    assert window_samples(SPEECH) == (LENGTH, AFTER)
    ears = Ears()
    stream = StreamedFeatures(SPEECH, ears.features, first)
    assert stream.num_samples == (0 if first == 0 else 4 * BLOCK_SAMPLES + AFTER - LENGTH)
    made = []
    for at in range(stream.num_samples, len(SOUND), piece):
        made += stream.push(SOUND[at : at + piece])
    made += stream.finish()
    assert [int(features[0, 0, 0]) for features in made] == [block for block, _ in ears.heard] == list(range(first, 6))
    padded = np.pad(SOUND, (0, BLOCK_SAMPLES + AFTER))  # silence after the end
    for block, window in ears.heard:
        end = (block + 1) * BLOCK_SAMPLES + AFTER
        assert np.array_equal(window, padded[max(0, end - LENGTH) : end])


def test_a_block_waits_for_its_last_sample() -> None:
    stream = StreamedFeatures(SPEECH, Ears().features)
    assert stream.push(SOUND[: BLOCK_SAMPLES + AFTER - 1]) == []
    assert stream.position == 0
    assert len(stream.push(SOUND[:1])) == 1
    assert stream.position == 1
