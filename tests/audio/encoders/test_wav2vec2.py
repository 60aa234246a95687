"""Resampling of wav2vec2's hidden states to video frames."""

import numpy as np
import pytest
import torch

from liveavatar.audio.encoders.wav2vec2 import MIDDLE_RATE, frame_features, normalise_waveform, stretch


def test_a_frame_has_the_features_of_its_own_moment() -> None:
    seconds = torch.arange(90) / MIDDLE_RATE  # a ramp: every feature is its time
    sampled, num_clips = frame_features(seconds[None, :, None], fps=25, clip_frames=48)
    assert num_clips == 2
    times = sampled[:75, 0, 0].numpy()
    assert np.abs(times - np.arange(75) / 25).max() <= 0.5 / MIDDLE_RATE + 1e-6, "the nearest index of 30 Hz"
    assert not sampled[75:].any(), "past the end of the track"


def test_neighbours_stand_before_and_after() -> None:
    seconds = torch.arange(90) / MIDDLE_RATE
    sampled, _ = frame_features(seconds[None, :, None], fps=25, clip_frames=48, window=1)
    before, own, after = sampled[10, 0].tolist()
    assert before < own < after


def test_stretching_keeps_the_ends_and_the_length() -> None:
    ramp = torch.linspace(0, 1, 100)[None, :, None]
    stretched = stretch(ramp)
    assert stretched.shape == (1, 60, 1)
    torch.testing.assert_close(stretched[0, :, 0], torch.linspace(0, 1, 60))


def test_a_waveform_is_normalised_as_a_whole() -> None:
    wave = normalise_waveform(torch.randn(16_000, generator=torch.Generator().manual_seed(0)) * 3 + 1)
    assert float(wave.mean()) == pytest.approx(0, abs=1e-5)
    assert float(wave.std()) == pytest.approx(1, abs=1e-3)
