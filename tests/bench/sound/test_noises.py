"""Noises have the level that was asked for, and are the same for the same seed."""

import numpy as np
import pytest

from liveavatar.bench.sound import noises
from liveavatar.timing import SAMPLE_RATE

SPEECH = (0.1 * np.sin(np.arange(2 * SAMPLE_RATE) / 9)).astype(np.float32)


@pytest.mark.parametrize("kind", noises.NOISES)
@pytest.mark.parametrize("level", [0.0, 20.0])
def test_level_and_seed(kind: str, level: float) -> None:
    make = noises.NOISES[kind]
    noise = make(np.random.default_rng(3), len(SPEECH))
    assert np.array_equal(noise, make(np.random.default_rng(3), len(SPEECH)))
    assert len(noise) == len(SPEECH)
    mixed, clean = noises.mix(SPEECH, noise, level)
    assert np.abs(mixed).max() <= noises.PEAK + 1e-6
    assert 20 * np.log10(clean.std() / (mixed - clean).std()) == pytest.approx(level, abs=0.3)


def test_pink_noise_falls_by_three_decibels_an_octave() -> None:
    noise = noises.pink(np.random.default_rng(0), 20 * SAMPLE_RATE)
    power = np.square(np.abs(np.fft.rfft(noise)))
    frequency = np.fft.rfftfreq(len(noise), 1 / SAMPLE_RATE)
    low, high = (power[(frequency > f) & (frequency < 2 * f)].mean() for f in (200, 1600))
    assert 10 * np.log10(low / high) == pytest.approx(9.0, abs=0.5)


def test_babble_is_of_other_voices_at_equal_power() -> None:
    other = [np.ones(10) * np.tile([1, -1], 5), 5 * np.tile([1.0, 1.0, -1.0, -1.0], 3)]
    mixed = noises.babble(other, 24)
    assert mixed.shape == (24,)
    assert set(np.round(np.abs(mixed), 6)) == {0.0, 2.0}


def test_a_room_keeps_the_length_and_echoes() -> None:
    click = np.zeros(SAMPLE_RATE, np.float32)
    click[100] = 0.5
    wet = noises.reverberant(np.random.default_rng(0), click, 0.5)
    assert wet.shape == click.shape
    energy = np.square(wet)
    assert energy[:100].sum() < 1e-9
    assert energy[200:4_000].sum() > 10 * energy[6_000:9_800].sum() > 0
