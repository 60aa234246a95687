"""Driving features: independent of batching, streamed equals whole."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from liveavatar.audio.encoders import low_rank
from liveavatar.audio.encoders.whisper import WhisperSpeech, block_features, load, whisper_features
from liveavatar.audio.encoders.whisper_network import WhisperEncoder
from liveavatar.config import LIVE_AVATAR_14B, MINI
from liveavatar.errors import CheckpointError, InputError
from tests.audio.sounds import syllables
from tests.corrections import write_corrections

SPEECH = MINI.speech
TUNED = replace(SPEECH, tuning=low_rank.FILE, shifts=(0,))


@pytest.fixture(scope="module", params=[SPEECH, TUNED], ids=["as published", "tuned"])
def speech(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> WhisperSpeech:
    """The encoder of `mini`, or one with corrections."""
    folder = tmp_path_factory.mktemp("model")
    write_corrections(folder / low_rank.FILE)
    return load(request.param, folder)


@pytest.mark.parametrize(
    ("num_samples", "num_blocks", "frames"),
    [
        pytest.param(7680, None, 12, id="exactly one block"),
        pytest.param(7681, None, 24, id="one sample over"),
        pytest.param(100, None, 12, id="a fraction of a frame"),
        pytest.param(7680, 5, 60, id="more blocks than sound"),
        pytest.param(40_000, 2, 24, id="fewer blocks than sound"),
    ],
)
def test_shape(encoder: WhisperEncoder, num_samples: int, num_blocks: int | None, frames: int) -> None:
    features = whisper_features(syllables(3.0)[:num_samples], SPEECH, num_blocks, whisper_encoder=encoder)
    assert features.shape == (5, 768, frames)
    assert features.dtype == torch.float32
    assert torch.isfinite(features).all()


@pytest.mark.parametrize(
    "batch",
    [3, *(pytest.param(batch, marks=pytest.mark.nightly) for batch in (1, 64))],
    ids=lambda batch: f"batches of {batch}",
)
def test_batching_changes_nothing(encoder: WhisperEncoder, batch: int) -> None:
    audio = syllables(6.0)
    whole = whisper_features(audio, SPEECH, whisper_encoder=encoder, batch=32)
    torch.testing.assert_close(
        whisper_features(audio, SPEECH, whisper_encoder=encoder, batch=batch), whole, atol=2e-3, rtol=1e-3
    )


def test_later_sound_does_not_change_earlier_blocks(encoder: WhisperEncoder) -> None:
    audio, other = syllables(5.0), syllables(5.0)
    known = 4 * 7680 + 2560  # the first four blocks and their look-ahead
    other[known:] = 0.5
    a, b = (whisper_features(x, SPEECH, whisper_encoder=encoder) for x in (audio, other))
    torch.testing.assert_close(a[:, :, :48], b[:, :, :48], atol=2e-3, rtol=1e-3)
    assert (a[:, :, 48:60] - b[:, :, 48:60]).abs().max() > 0.1


def test_definition_of_a_block(encoder: WhisperEncoder) -> None:
    """Block 2 of a track, cut out by hand: 3 s ending 0.16 s after its end, states 118..141 of 150, two a frame."""
    audio = syllables(4.0)
    end = 3 * 7680 + 2560
    window = np.concatenate([np.zeros(48_000 - end, np.float32), audio[:end]])
    with torch.inference_mode():
        states = encoder(torch.from_numpy(window)[None])[0, :, 118:142]
    by_hand = states.reshape(5, 12, 768).transpose(1, 2)
    features = whisper_features(audio, replace(SPEECH, shifts=(0,)), whisper_encoder=encoder)[:, :, 24:36]
    torch.testing.assert_close(features, by_hand, atol=2e-3, rtol=1e-3)


def test_values_survive_half_precision(encoder: WhisperEncoder) -> None:
    features = whisper_features(syllables(2.0), SPEECH, whisper_encoder=encoder)
    assert torch.equal(features, features.half().float())


@pytest.mark.parametrize(
    "cfg",
    [
        pytest.param(LIVE_AVATAR_14B.speech, id="another kind of encoder"),
        pytest.param(replace(SPEECH, num_states=7), id="more states"),
        pytest.param(replace(SPEECH, dim=1024), id="wider"),
    ],
)
def test_encoder_must_fit_the_model(encoder: WhisperEncoder, cfg) -> None:
    with pytest.raises(CheckpointError, match="the model wants"):
        whisper_features(syllables(1.0), cfg, whisper_encoder=encoder)


def test_block_features_of_many_windows(encoder: WhisperEncoder) -> None:
    windows = torch.from_numpy(np.stack([syllables(3.0, seed) for seed in range(3)]))
    assert block_features(windows, encoder, SPEECH).shape == (3, 5, 768, 12)


def test_features_are_the_mean_over_moved_windows(encoder: WhisperEncoder) -> None:
    windows = torch.from_numpy(np.stack([syllables(3.0, seed) for seed in range(2)]))
    later, earlier = torch.zeros_like(windows), torch.zeros_like(windows)
    later[:, 80:], earlier[:, :-80] = windows[:, :-80], windows[:, 80:]
    plain = replace(SPEECH, shifts=(0,))
    parts = torch.stack([block_features(w, encoder, plain) for w in (later, windows, earlier)])
    made = block_features(windows, encoder, replace(SPEECH, shifts=(80, 0, -80)))
    torch.testing.assert_close(made, parts.mean(0), atol=0.02, rtol=2e-3)  # the parts are rounded to fp16 before
    assert (made - parts[1]).abs().mean() > 10 * (made - parts.mean(0)).abs().mean()


@pytest.mark.parametrize(
    ("seconds", "pieces"),
    [
        pytest.param(4.3, (1_000,), id="small pieces"),
        pytest.param(5.3, (7_680,), id="one block a piece", marks=pytest.mark.nightly),
        pytest.param(5.3, (48_000,), id="three seconds a piece", marks=pytest.mark.nightly),
        pytest.param(4.3, (1, 9_999, 160, 20_001), id="uneven pieces"),
        pytest.param(0.3, (100,), id="less than a block"),
    ],
)
def test_streamed_equals_whole(speech: WhisperSpeech, seconds: float, pieces: tuple[int, ...]) -> None:
    audio = syllables(seconds)
    stream = speech.stream(0)
    blocks, start, count = [], 0, 0
    while start < len(audio):
        piece = audio[start : start + pieces[count % len(pieces)]]
        blocks += stream.push(piece)
        start, count = start + len(piece), count + 1
    blocks += stream.finish()
    whole = speech.features(audio)
    streamed = torch.cat(blocks, dim=2)
    assert streamed.shape == whole.shape
    torch.testing.assert_close(streamed, whole.float(), atol=2e-3, rtol=1e-3)


def test_a_block_comes_as_soon_as_it_can_be_known(encoder: WhisperEncoder) -> None:
    stream = WhisperSpeech(MINI.speech, encoder).stream(0)
    assert stream.push(np.zeros(7680 + 2560 - 1, np.float32)) == []
    assert len(stream.push(np.zeros(1, np.float32))) == 1
    assert stream.position == 1


def test_no_sound_gives_no_blocks(encoder: WhisperEncoder) -> None:
    assert WhisperSpeech(MINI.speech, encoder).stream(0).finish() == []


def test_corrections_of_a_model_directory_are_added(tmp_path: Path, encoder: WhisperEncoder) -> None:
    audio, plain = syllables(1.0), replace(SPEECH, shifts=(0,))
    write_corrections(tmp_path / low_rank.FILE)
    tuned = load(TUNED, tmp_path)
    published = load(plain, tmp_path).features(audio)
    assert torch.equal(published, whisper_features(audio, plain, whisper_encoder=encoder, dtype=torch.float16))
    difference = (tuned.features(audio).float() - published.float()).abs().amax((1, 2))
    assert difference[0] == 0, "no linear layer lies before the first state"
    assert difference[1:].min() > 0.05
    assert load(TUNED, tmp_path).encoder is tuned.encoder, "loaded once"
    write_corrections(tmp_path / low_rank.FILE, seed=1)
    assert not torch.equal(load(TUNED, tmp_path).features(audio), tuned.features(audio)), "the file was written anew"


def test_corrections_that_are_not_there_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name it with --model"):
        load(TUNED)
    with pytest.raises(CheckpointError, match=r"has no speech\.safetensors"):
        load(TUNED, tmp_path)
    (tmp_path / low_rank.FILE).write_text("no weights")
    with pytest.raises(CheckpointError, match="holds no corrections of a speech encoder"):
        load(TUNED, tmp_path)
