"""Recordings of another vocal tract have moved mel filters; windows are cut out of the states of one encoder or two."""

import numpy as np
import pytest
import torch

from liveavatar.audio.encoders.whisper_network import NUM_FFT, mel_filters
from liveavatar.timing import SAMPLE_RATE
from liveavatar.training.features import THROAT, FeatureBank, throat


@pytest.mark.parametrize("stretch", [0.85, 1.17])
def test_filters_of_a_longer_throat_hear_what_lies_higher(stretch: float) -> None:
    hertz = np.arange(NUM_FFT // 2 + 1) * SAMPLE_RATE / NUM_FFT

    def centres(filters: np.ndarray) -> np.ndarray:
        return np.asarray((filters * hertz).sum(1) / filters.sum(1))

    plain, moved = centres(mel_filters(80)), centres(mel_filters(80, stretch))
    low = (plain > 300) & (plain < 3500)
    np.testing.assert_allclose(moved[low] / plain[low], stretch, rtol=0.03)
    assert abs(moved[-1] / plain[-1] - 1) < 0.02
    assert (np.diff(moved) > 0).all()


def test_only_the_last_recording_has_another_throat() -> None:
    assert {throat(key, num_tracks=4) for key in range(8)} == {1.0}
    others = [throat(key, num_tracks=4) for key in range(8, 12)]
    assert len(set(others)) == 4
    assert max(np.abs(np.log(others))) <= THROAT


def test_states_of_another_encoder_lie_behind_the_first() -> None:
    rows, starts = torch.arange(100.0)[:, None, None].expand(100, 2, 3), torch.tensor([[2, 50]])
    bank, other = FeatureBank(rows, starts, 2), FeatureBank(-rows, starts.clone(), 2)
    tracks, blocks = torch.tensor([1, 0]), torch.tensor([1, 0])
    alone = bank.window(tracks, blocks, 2)
    bank.append(other)
    both = bank.window(tracks, blocks, 2)
    assert both.shape == (2, 4, 3, 26)
    assert torch.equal(both[:, :2], alone)
    assert torch.equal(both[:, 2:], -alone)
    with pytest.raises(AssertionError, match="features of other tracks"):
        bank.append(FeatureBank(rows, starts + 1, 2))
