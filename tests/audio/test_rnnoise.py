"""RNNoise lowers noise, keeps the speech where it is, and never changes the length."""

import numpy as np
import pytest

from liveavatar.audio import rnnoise
from liveavatar.audio.enhance import enhance
from liveavatar.bench.sound import noises
from liveavatar.bench.sound.run import si_sdr
from liveavatar.errors import InputError

needs_rnnoise = pytest.mark.skipif(not rnnoise.available(), reason="there is no wheel of it for this platform")


@needs_rnnoise
def test_noise_is_lowered_and_speech_stays_in_time(spoken: np.ndarray) -> None:
    noisy, clean = noises.mix(spoken, noises.white(np.random.default_rng(0), len(spoken)), 5.0)
    reduced = rnnoise.reduce_noise(noisy)
    assert reduced.dtype == np.float32
    assert len(reduced) == len(noisy)
    assert si_sdr(clean, reduced) > 8.0
    assert si_sdr(clean[:-1], reduced[1:]) < si_sdr(clean, reduced)
    assert si_sdr(clean[1:], reduced[:-1]) < si_sdr(clean, reduced)


@needs_rnnoise
def test_pieces_join(spoken: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy, _ = noises.mix(spoken, noises.pink(np.random.default_rng(0), len(spoken)), 10.0)
    whole = rnnoise.reduce_noise(noisy)
    monkeypatch.setattr(rnnoise, "PIECE", 50_001)
    pieces = rnnoise.reduce_noise(noisy)
    assert len(pieces) == len(whole)
    assert si_sdr(whole, pieces) > 15.0


@pytest.mark.parametrize("num_samples", [1, 479, 16_000])
@needs_rnnoise
def test_any_length(num_samples: int) -> None:
    assert rnnoise.reduce_noise(np.zeros(num_samples, np.float32)).shape == (num_samples,)


def test_forcing_it_where_it_is_missing_says_so(spoken: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rnnoise, "library_path", lambda: None)
    with pytest.raises(InputError, match="pip install pyrnnoise"):
        enhance(spoken, denoise="rnnoise", whisper="off")
    with pytest.raises(RuntimeError):
        rnnoise.reduce_noise(spoken[:100])
