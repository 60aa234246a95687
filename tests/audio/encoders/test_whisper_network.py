"""Whisper's encoder as a network: its own filters and states, silence not stretched, files of the encoder alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from liveavatar.audio.encoders.whisper import whisper_features
from liveavatar.audio.encoders.whisper_network import (
    HOP,
    LOUDEST_FLOOR,
    WhisperEncoder,
    load_encoder,
    mel_filters,
)
from liveavatar.audio.whisper_weights import load_whisper, whisper_package
from liveavatar.config import MINI
from liveavatar.errors import CheckpointError, InputError
from liveavatar.training import speech_encoder
from tests.audio.sounds import noise, syllables

SPEECH = MINI.speech


def test_mel_filters_are_whispers() -> None:
    whisper = whisper_package()
    expected = whisper.audio.mel_filters("cpu", 80).numpy()
    np.testing.assert_allclose(mel_filters(80), expected, atol=1e-8)


def test_encoder_is_whispers(encoder: WhisperEncoder) -> None:
    whisper = whisper_package()
    model = load_whisper("tiny.en")
    audio = torch.from_numpy(whisper.pad_or_trim(syllables(30.0)))
    mel = whisper.log_mel_spectrogram(audio)
    torch.testing.assert_close(encoder.log_mel(audio[None])[0], mel, atol=1e-6, rtol=0)
    with torch.inference_mode():
        states = encoder(audio[None])
        expected = model.encoder(mel[None])
        assert states.shape == (1, 5, 1500, 384)
        torch.testing.assert_close(model.encoder.ln_post(states[:, -1]), expected, atol=5e-3, rtol=1e-3)


def test_a_longer_vocal_tract_moves_filters_up_and_loses_no_frequency() -> None:
    plain, stretched = mel_filters(80), mel_filters(80, 1.1)
    assert np.array_equal(mel_filters(80, 1.0), plain)
    centres, moved = (filters.argmax(1) for filters in (plain, stretched))
    assert (moved >= centres).all()
    assert moved[40] > centres[40]
    assert stretched[:, 1:-1].any(0).all(), "up to the highest"


def test_states_are_one_more_than_layers_at_half_the_rate() -> None:
    torch.manual_seed(0)
    small = WhisperEncoder(num_mels=80, num_positions=50, width=64, num_layers=2).eval()
    audio = torch.randn(2, 40 * HOP)
    with torch.inference_mode():
        states = small(audio)
        assert small.num_states == 3
        assert states.shape == (2, 3, 20, 64)
        torch.testing.assert_close(states[1:], small(audio[1:]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(small.blocks[1](states[:, 1]), states[:, 2], atol=1e-5, rtol=1e-5)
        silent = small.log_mel(torch.zeros(1, 40 * HOP))
    assert (silent == (LOUDEST_FLOOR - 8.0 + 4.0) / 4.0).all(), "silence lies at the floor"


@pytest.mark.parametrize(
    ("level", "most"),
    [
        pytest.param(0.0, 0.0, id="digital silence"),
        pytest.param(1e-5, 0.15, id="-100 dBFS"),
        pytest.param(1e-4, 0.65, id="-80 dBFS"),
    ],
)
def test_quiet_noise_stays_near_silence(encoder: WhisperEncoder, level: float, most: float) -> None:
    """In units where loud speech lies 2.3 above silence; stretched to full range, hiss would lie there too."""
    hiss = noise(2.0, level)
    mel = encoder.log_mel(torch.from_numpy(np.stack([hiss, np.zeros_like(hiss), syllables(2.0)])))
    assert (mel[0] - mel[1]).abs().max() <= most
    assert mel[2].max() - mel[1].max() > 2.0


def test_encoder_file_round_trip(tmp_path: Path, encoder: WhisperEncoder) -> None:
    path = tmp_path / "encoder.safetensors"
    assert speech_encoder.main([str(path)]) == 0
    audio = syllables(2.0)
    assert path.stat().st_size < 17e6
    assert torch.equal(
        whisper_features(audio, SPEECH, whisper_encoder=load_encoder(path)),
        whisper_features(audio, SPEECH, whisper_encoder=encoder),
    )


@pytest.mark.parametrize(
    ("content", "error"),
    [
        pytest.param(None, InputError, id="missing"),
        pytest.param(b"", CheckpointError, id="empty"),
        pytest.param(b"not safetensors at all", CheckpointError, id="not safetensors"),
    ],
)
def test_bad_encoder_file(tmp_path: Path, content: bytes | None, error: type[Exception]) -> None:
    path = tmp_path / "encoder.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match="encoder"):
        load_encoder(path)
