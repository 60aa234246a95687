"""DNSMOS tells clean speech from noisy, and does not mind the length."""

import numpy as np
import pytest

from liveavatar.audio.dnsmos import dnsmos
from liveavatar.audio.loudness import normalise
from tests.audio.sounds import noise


def test_noise_lowers_every_score(spoken: np.ndarray) -> None:
    clean, noisy = dnsmos(normalise(spoken)), dnsmos(normalise(spoken + noise(8.0, 0.05)[: len(spoken)]))
    assert clean.overall > noisy.overall + 0.5
    assert clean.background > noisy.background + 0.5
    assert clean.speech > noisy.speech


@pytest.mark.parametrize("seconds", [pytest.param(s, id=f"{s} s") for s in (0.5, 9.01, 9.5, 40.0)])
def test_any_length(seconds: float) -> None:
    opinion = dnsmos(noise(seconds))
    assert 0.5 < opinion.overall < 2.0
