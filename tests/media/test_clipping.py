"""Clipped sound has a larger share of samples near its peak than speech has."""

import numpy as np
import pytest

from liveavatar.audio.ingest import load_audio
from liveavatar.media.clipping import HEARD, clipped_share, peak_of
from liveavatar.paths import DATA


@pytest.mark.parametrize(("gain", "clipped"), [(1.0, False), (4.0, True), (8.0, True)])
def test_share(gain: float, clipped: bool) -> None:
    speech = load_audio(DATA / "samples" / "speech.wav")
    track = 0.5 * np.clip(gain * speech / np.abs(speech).max(), -1, 1)
    assert (clipped_share(track) > HEARD) == clipped
    assert peak_of(track) == pytest.approx(0.5 if clipped else 0.45, abs=0.05)


def test_nothing_and_silence_are_not_clipped() -> None:
    assert clipped_share(np.zeros(0)) == 0.0
    assert clipped_share(np.zeros(100)) == 0.0
    assert peak_of(np.zeros(0)) == 0.0
