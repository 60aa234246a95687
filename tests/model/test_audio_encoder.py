"""The audio encoder: causal, a row for each latent, the same for a block with its history as for the whole track."""

import pytest
import torch

from liveavatar.model.audio_encoder import AudioTokens, CausalAudioEncoder, CausalConv1d, latent_start

LAYERS, C, D, TOKENS = 2, 6, 8, 3


@pytest.fixture(scope="module")
def encoder() -> CausalAudioEncoder:
    torch.manual_seed(0)
    network = CausalAudioEncoder(C, LAYERS, D, TOKENS, 1e-6)
    for p in network.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return network.requires_grad_(False)


def features(frames: int) -> torch.Tensor:
    return torch.randn(1, LAYERS, C, frames, generator=torch.Generator().manual_seed(frames))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("frames", [1, 2, 9])
def test_a_causal_convolution_is_one_over_the_padded_track(stride: int, frames: int) -> None:
    torch.manual_seed(stride)
    layer = CausalConv1d(C, D, stride=stride).requires_grad_(False)
    x = torch.randn(2, C, frames)
    padded = torch.cat((x[..., :1], x[..., :1], x), dim=-1)
    torch.testing.assert_close(layer(x), layer.conv(padded), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("frames", "rows"), [(12, 3), (13, 4), (1, 1)])
def test_four_frames_make_one_row(encoder: CausalAudioEncoder, frames: int, rows: int) -> None:
    made = encoder(features(frames))
    assert made.local.shape == (1, rows, TOKENS + 1, D)
    assert made.global_.shape == (1, rows, 1, D)
    assert torch.equal(made[1:2].local, made.local[:, 1:2])
    assert torch.equal(made[1:2].global_, made.global_[:, 1:2])


@pytest.mark.parametrize("frame", [4, 5, 8])
def test_a_frame_reaches_its_row_and_later_ones_alone(encoder: CausalAudioEncoder, frame: int) -> None:
    base = features(13)
    changed = base.clone()
    changed[..., frame] += 1
    before, after = encoder(base), encoder(changed)
    first = -(-frame // 4)  # output j sees frames <= 4j
    for a, b in ((before.local[:, :, :TOKENS], after.local[:, :, :TOKENS]), (before.global_, after.global_)):
        assert torch.equal(a[:, :first], b[:, :first])
        assert not torch.equal(a[:, first], b[:, first])


def test_the_last_local_token_is_the_same_for_every_sound(encoder: CausalAudioEncoder) -> None:
    made = encoder(features(9)).local[:, :, -1]
    assert torch.equal(made, encoder.encoder.padding_tokens[:, 0].expand(1, 3, D))


def test_before_its_first_frame_a_track_stands_still(encoder: CausalAudioEncoder) -> None:
    short = features(9)
    longer = torch.cat((short[..., :1].expand(-1, -1, -1, 16), short), dim=-1)
    for got, wanted in zip(rows_of(encoder(longer)), rows_of(encoder(short)), strict=True):
        torch.testing.assert_close(got[:, 4:], wanted, atol=1e-5, rtol=1e-5)


def rows_of(tokens: AudioTokens) -> tuple[torch.Tensor, torch.Tensor]:
    return tokens.local, tokens.global_


@pytest.mark.parametrize("history", [9, 13])
def test_a_block_with_its_history_is_part_of_the_track(encoder: CausalAudioEncoder, history: int) -> None:
    """The convolutions reach back ten frames: what is further away does not matter."""
    track = features(60)
    start = 24
    block = encoder(track[..., start - history : start + 12])[latent_start(history) :]
    whole = encoder(track[..., start - 21 : start + 12])[latent_start(21) :]
    assert block.local.shape[1] == whole.local.shape[1] == 3
    # With nine frames the first row alone sees the edge.
    for got, wanted in zip(rows_of(block), rows_of(whole), strict=True):
        torch.testing.assert_close(got[:, history < 10 :], wanted[:, history < 10 :], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("history", "dropped"), [(1, 1), (5, 2), (9, 3), (73, 19)])
def test_rows_of_the_history_are_counted(history: int, dropped: int) -> None:
    assert latent_start(history) == dropped


def test_a_history_that_ends_within_a_latent_is_refused() -> None:
    with pytest.raises(AssertionError, match="do not end on a latent"):
        latent_start(8)


def test_hidden_states_are_a_weighted_mean(encoder: CausalAudioEncoder) -> None:
    one = features(5)[:, :1]
    same = one.expand(-1, LAYERS, -1, -1)
    torch.testing.assert_close(encoder(same).global_, encoder.encoder(one[:, 0]).global_)
    mixed = torch.cat((one, 2 * one), dim=1)
    weights = torch.nn.functional.silu(encoder.weights.flatten())
    factor = float((weights * torch.tensor([1.0, 2.0])).sum() / weights.sum())
    torch.testing.assert_close(encoder(mixed).global_, encoder.encoder(factor * one[:, 0]).global_)
