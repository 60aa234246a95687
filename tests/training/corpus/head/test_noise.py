"""Noise fields: unit variance, tileable, and stretched the right way."""

import numpy as np
import pytest

from liveavatar.training.corpus.head.noise import noise_volume, strand_noise


def test_volume_tiles_and_has_unit_variance() -> None:
    volume = noise_volume(16)
    assert (volume.shape, volume.dtype) == ((6, 17, 17, 17), np.float32)
    for axis in (1, 2, 3):
        assert np.array_equal(volume.take(0, axis), volume.take(-1, axis))
    assert volume[:, :-1, :-1, :-1].std((1, 2, 3)) == pytest.approx(np.ones(6), abs=1e-4)
    assert np.array_equal(volume, noise_volume(16))


@pytest.mark.parametrize(("channel", "axis"), [(3, 2), (4, 1), (5, 0)], ids=["x", "y", "z"])
def test_the_last_channels_are_the_gradient_of_the_fine_one(channel: int, axis: int) -> None:
    volume = noise_volume(32)[:, :-1, :-1, :-1]
    difference = np.roll(volume[2], -1, axis) - np.roll(volume[2], 1, axis)
    assert np.corrcoef(difference.ravel(), volume[channel].ravel())[0, 1] > 0.85


def test_noise_is_ordered_from_low_to_fine() -> None:
    volume = noise_volume(64)[:3, :-1, :-1, :-1]
    steps = [np.abs(np.diff(field, axis=0)).mean() for field in volume]
    assert steps[0] < 0.7 * min(steps[1:])


def test_strands_change_across_and_not_along() -> None:
    noise = strand_noise(128, 16)
    assert noise.shape == (2, 17, 129)
    assert np.array_equal(noise[:, 0], noise[:, -1])
    assert np.array_equal(noise[:, :, 0], noise[:, :, -1])
    across, along = (np.abs(np.diff(noise[:, :-1, :-1], axis=k)).mean() * n for k, n in ((2, 128), (1, 16)))
    assert across > 4 * along
