"""Clicks go and speech stays: counted, bridged where they are, and nothing touched in a clean track."""

import numpy as np
import pytest

from liveavatar.audio.clicks import PIECE, remove_clicks
from liveavatar.bench.sound import noises
from liveavatar.bench.sound.run import si_sdr


def test_clean_speech_is_the_very_same_array(spoken: np.ndarray) -> None:
    same, count = remove_clicks(spoken)
    assert same is spoken
    assert count == 0


@pytest.mark.parametrize(("level", "gain"), [(0.0, 9.0), (10.0, 7.0)])
def test_clicks_are_bridged(spoken: np.ndarray, level: float, gain: float) -> None:
    track, clean = noises.mix(spoken, noises.clicks(np.random.default_rng(1), len(spoken)), level)
    mended, count = remove_clicks(track)
    assert len(mended) == len(track)
    assert count > 2 * len(track) / 16_000
    assert si_sdr(clean, mended) > level + gain


def test_one_loud_click_is_found_and_its_neighbourhood_alone_changes(spoken: np.ndarray) -> None:
    track = spoken.copy()
    track[60_000] = 0.99
    mended, count = remove_clicks(track)
    assert count == 1
    assert abs(mended[60_000] - spoken[60_000]) < 0.1
    changed = np.flatnonzero(mended != track)
    assert changed.min() > 60_000 - 100
    assert changed.max() < 60_000 + 100


@pytest.mark.parametrize("kind", ["white", "pink", "hum", "music"])
def test_noise_has_no_clicks(spoken: np.ndarray, kind: str) -> None:
    track, _ = noises.mix(spoken, noises.NOISES[kind](np.random.default_rng(0), len(spoken)), 5.0)
    assert remove_clicks(track)[1] == 0


@pytest.mark.parametrize("num_samples", [1, 10, 700, 8_000])
def test_short_and_silent_tracks(num_samples: int) -> None:
    track = np.zeros(num_samples, np.float32)
    assert remove_clicks(track) == (track, 0)


def test_a_click_in_a_later_piece_is_found() -> None:
    track = np.zeros(PIECE + 16_000, np.float32)
    track += 0.05 * np.sin(np.arange(len(track)) / 20).astype(np.float32)
    track[PIECE + 8_000] = 0.9
    mended, count = remove_clicks(track)
    assert count == 1
    assert abs(mended[PIECE + 8_000]) < 0.1
    assert np.array_equal(mended[:PIECE], track[:PIECE])
