"""The decoder laid out for a GPU equals the plain one, and streams may change between the two."""

import copy
from typing import Any

import pytest
import torch

from liveavatar.fast import vae as vae_module
from liveavatar.fast.vae import FastDecoder, FastEncoder, channel_multiple
from liveavatar.model.stream_state import StreamState
from liveavatar.model.vae_wan import WanVAE


@pytest.mark.parametrize(
    "cut", [pytest.param([1, 3, 3], id="one, then blocks"), pytest.param([4, 3], id="primed, then a block")]
)
def test_equals_the_plain_decoder(cut: list[int], vae: WanVAE) -> None:
    latents = torch.randn(1, 4, 7, 3, 5)
    fast, plain = FastDecoder(copy.deepcopy(vae)), vae.decoder_state(1, 3, 5)
    state = vae.decoder_state(1, 3, 5)
    for part in latents.split(cut, dim=2):
        wanted = vae.decode_stream(part, plain)
        torch.testing.assert_close(fast.decode_stream(part, state), wanted, atol=2e-5, rtol=1e-5)
    assert state.position == plain.position == 7


@pytest.mark.parametrize("multiple", [1, 5, 7, 12])
def test_padded_channels_change_nothing(multiple: int, vae: WanVAE) -> None:
    """Blocks have 16 and 8 channels; a state is that of the plain decoder, for a stream may go on there."""
    latents = torch.randn(1, 4, 7, 3, 5)
    padded, state, plain = FastDecoder(copy.deepcopy(vae), multiple), vae.decoder_state(1, 3, 5), StreamState(1, 3, 5)
    for part in latents.split([1, 3, 3], dim=2):
        wanted = vae.decode_stream(part, plain)
        torch.testing.assert_close(padded.decode_stream(part, state), wanted, atol=2e-5, rtol=1e-5)
    for name, kept in plain.tensors().items():
        torch.testing.assert_close(state.tensors()[name], kept, atol=1e-4, rtol=1e-4)


def test_only_hopper_asks_for_more_channels() -> None:
    assert channel_multiple(torch.device("cpu")) == 1


def test_channels_stay_innermost_whatever_convolutions_return(vae: WanVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    plain, norm = vae_module.F.conv3d, vae_module.ops.rms_silu

    def conv3d(*args: Any, **options: Any) -> torch.Tensor:
        return plain(*args, **options).contiguous()  # as cuDNN does for some shapes: channels outermost

    def rms_silu(x: torch.Tensor, bias: torch.Tensor | None, gamma: torch.Tensor, out: torch.Tensor) -> None:
        norm(x, bias, gamma, out)  # refuses another layout
        seen.append(x.shape[0])

    monkeypatch.setattr(vae_module.F, "conv3d", conv3d)
    monkeypatch.setattr(vae_module.ops, "rms_silu", rms_silu)
    FastDecoder(copy.deepcopy(vae)).decode_stream(torch.randn(1, 4, 4, 3, 5), vae.decoder_state(1, 3, 5))
    assert {16, 8} <= set(seen)


def test_a_stream_goes_on_in_the_other_decoder(vae: WanVAE) -> None:
    latents = torch.randn(1, 4, 7, 3, 5)
    fast, state = FastDecoder(copy.deepcopy(vae)), vae.decoder_state(1, 3, 5)
    wanted = vae.decode(latents)[:, :, 13:]
    vae.decode_stream(latents[:, :, :4], state)
    torch.testing.assert_close(fast.decode_stream(latents[:, :, 4:], state), wanted, atol=2e-5, rtol=1e-5)
    state = vae.decoder_state(1, 3, 5)
    fast.decode_stream(latents[:, :, :4], state)
    torch.testing.assert_close(vae.decode_stream(latents[:, :, 4:], state), wanted, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("cut", [[1, 3, 3], [3, 3], [2, 1, 4]])
def test_a_primed_stream_is_settled_after_some_frames(cut: list[int], vae: WanVAE) -> None:
    fast, whole, primed = FastDecoder(copy.deepcopy(vae)), StreamState(1, 3, 5), StreamState(1, 3, 5)
    *earlier, last = torch.randn(1, 4, sum(cut), 3, 5).split(cut, dim=2)
    for part in earlier:
        fast.decode_stream(part, whole)
        fast.prime_stream(part, primed)
    wanted, got = fast.decode_stream(last, whole), fast.decode_stream(last, primed)
    assert 0 < fast.settling_frames <= wanted.shape[2]
    assert not torch.equal(got, wanted), "the layers at full size were left out"
    assert torch.equal(got[:, :, fast.settling_frames :], wanted[:, :, fast.settling_frames :])
    for name, kept in whole.tensors().items():
        assert torch.equal(primed.tensors()[name], kept), name


@pytest.mark.parametrize("multiple", [1, 5, 12])
@pytest.mark.parametrize("num_latents", [1, 2, 9])
def test_encodes_a_still_picture_as_the_plain_encoder_does(num_latents: int, multiple: int, vae: WanVAE) -> None:
    picture = torch.rand(1, 3, 1, 24, 40) * 2 - 1
    wanted = vae.encode_still(picture, num_latents)
    got = FastEncoder(copy.deepcopy(vae), multiple).encode_still(picture, num_latents)
    assert got.shape == wanted.shape
    torch.testing.assert_close(got, wanted, atol=2e-5, rtol=1e-5)


def test_encodes_a_video_as_the_plain_encoder_does(vae: WanVAE) -> None:
    video = torch.rand(1, 3, 13, 24, 40) * 2 - 1
    fast, state, plain = FastEncoder(copy.deepcopy(vae), 8), vae.encoder_state(1, 3, 5), vae.encoder_state(1, 3, 5)
    for part in video.split([1, 4, 8], dim=2):
        wanted = vae.encode_stream(part, plain)
        torch.testing.assert_close(fast.encode_stream(part, state), wanted, atol=2e-5, rtol=1e-5)
    assert state.position == 13
