"""wav2vec2's hidden states at video frames, of whole tracks and of sound that still arrives."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from liveavatar.audio.encoders import wav2vec2
from liveavatar.audio.encoders.wav2vec2 import (
    MIDDLE_RATE,
    STATE_RATE,
    STATE_SAMPLES,
    Wav2Vec2Speech,
    frame_features,
    load_wav2vec2,
    normalise_waveform,
    stretch,
    window_features,
)
from liveavatar.audio.encoders.windows import window_samples
from liveavatar.checkpoints.released import speech_dir
from liveavatar.errors import CheckpointError
from liveavatar.timing import BLOCK_SAMPLES
from tests.audio.sounds import syllables
from tests.released import SCALED, make_released

SPEECH = replace(SCALED.speech, window_seconds=2.0)
LENGTH, LOOKAHEAD = window_samples(SPEECH)


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


def test_quiet_sound_is_not_raised_to_the_level_of_speech() -> None:
    noise = torch.randn(16_000, generator=torch.Generator().manual_seed(0)) * 1e-3
    assert float(normalise_waveform(noise, least_variance=1e-4).std()) == pytest.approx(0.1, rel=0.02)
    assert float(normalise_waveform(torch.zeros(1000), least_variance=1e-4).abs().max()) == 0


class Clock(torch.nn.Module):
    """A network whose hidden states are their times in a window."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, values: Tensor, output_hidden_states: bool) -> Any:
        count = (values.shape[1] - 400) // STATE_SAMPLES + 1
        times = (torch.arange(count) / STATE_RATE)[None, :, None]
        return SimpleNamespace(hidden_states=(times,), last_hidden_state=times)


@pytest.mark.parametrize("block", [0, 1, 5, 77], ids=str)
def test_a_live_frame_has_the_features_of_its_own_moment(block: int) -> None:
    end = (block + 1) * BLOCK_SAMPLES + LOOKAHEAD
    first = max(0, end - LENGTH)
    made = window_features(Clock(), torch.zeros(end - first), block, first)
    times = made[0, 0].double().numpy() + first / 16_000
    assert np.abs(times - (block * 12 + np.arange(12)) / 25).max() <= 0.5 / MIDDLE_RATE + 1e-4


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Wav2Vec2Speech:
    base = speech_dir(make_released(tmp_path_factory.mktemp("released")))
    return Wav2Vec2Speech(SPEECH, base)


def heard(speech: Wav2Vec2Speech, audio: np.ndarray, piece: int, first_block: int = 0) -> Tensor:
    stream = speech.stream(first_block)
    blocks = []
    for at in range(stream.num_samples, len(audio), piece):
        blocks += stream.push(audio[at : at + piece])
    return torch.cat([*blocks, *stream.finish()], dim=2)


def test_features_depend_on_the_window_alone(speech: Wav2Vec2Speech) -> None:
    audio = np.concatenate([np.zeros(10_000, np.float32), syllables(4.0)])
    at_once = heard(speech, audio, len(audio))
    assert at_once.shape == (SPEECH.num_states, SPEECH.dim, 12 * 10)
    assert torch.isfinite(at_once).all()
    assert torch.equal(heard(speech, audio, 1237), at_once)
    assert torch.equal(heard(speech, audio, 5000, first_block=7), at_once[:, :, 84:]), "after a restart"


def test_the_first_window_is_the_track_so_far(speech: Wav2Vec2Speech) -> None:
    audio = syllables(3 * 0.48)
    so_far = torch.from_numpy(audio[: 2 * BLOCK_SAMPLES + LOOKAHEAD])
    expected = window_features(load_wav2vec2(speech.directory), so_far, block=1, first_sample=0)
    assert torch.equal(heard(speech, audio, 4000)[:, :, 12:24], expected.bfloat16())


def test_it_takes_no_corrections(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'speech.safetensors', and wav2vec2 takes none"):
        wav2vec2.load(replace(SPEECH, tuning="speech.safetensors"), tmp_path)


def test_each_block_costs_one_window_in_silence_and_in_speech(
    speech: Wav2Vec2Speech, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, windows = speech.stream(0), []

    def counted(network: torch.nn.Module, window: Tensor, block: int, first: int) -> Tensor:
        windows.append(len(window))
        return window_features(network, window, block, first)

    monkeypatch.setattr(wav2vec2, "window_features", counted)
    silence, spoken = np.zeros(6 * BLOCK_SAMPLES, np.float32), syllables(6 * 0.48)
    audio = np.concatenate([silence, spoken, silence])
    stream.push(audio[:LOOKAHEAD])
    for block in range(len(audio) // BLOCK_SAMPLES - 1):
        stream.push(audio[stream.num_samples :][:BLOCK_SAMPLES])
        assert len(windows) == block + 1, "one window for each block as it arrives, whatever is said"
    assert max(windows) == LENGTH
    assert set(windows[6:]) == {LENGTH}, "speech costs what silence does"
