"""The compact autoencoder streams exactly what it computes at once, and never looks ahead."""

from dataclasses import replace

import pytest
import torch

from liveavatar.config import MINI, TINY
from liveavatar.errors import InputError
from liveavatar.model.vae_compact import CompactVAE, MemoryBlock, UnsharpMask, blur_by_sums

CFG = replace(TINY.vae, mean=tuple(0.1 * i for i in range(8)), std=tuple(1.0 + 0.1 * i for i in range(8)))


@pytest.fixture(scope="module")
def vae() -> CompactVAE:
    torch.manual_seed(0)
    model = CompactVAE(CFG).eval()
    for module in model.modules():  # fresh blocks start as the identity; give memory and residuals weight
        if isinstance(module, MemoryBlock):
            torch.nn.init.normal_(module.mix.weight, std=0.1)
            torch.nn.init.normal_(module.conv2.weight, std=0.05)
    return model


@pytest.mark.parametrize(
    ("batch", "height", "width", "chunks"),
    [
        pytest.param(1, 64, 32, [3, 3, 2], id="blocks of three latents and a rest"),
        pytest.param(2, 32, 64, [1, 1, 1, 1], id="latent by latent, two streams"),
    ],
)
@torch.inference_mode()
def test_streaming_equals_whole(vae: CompactVAE, batch: int, height: int, width: int, chunks: list[int]) -> None:
    video = torch.rand(batch, 3, 4 * sum(chunks), height, width) * 2 - 1
    whole_z = vae.encode(video)
    assert whole_z.shape == (batch, 8, sum(chunks), height // 16, width // 16)
    whole = vae.decode(whole_z)
    assert whole.shape == video.shape
    enc, dec = (f(batch, height // 16, width // 16) for f in (vae.encoder_state, vae.decoder_state))
    frames, latents, at = [], [], 0
    for n in chunks:
        z = vae.encode_stream(video[:, :, 4 * at : 4 * (at + n)], enc)
        # a snapshot taken and restored between chunks must change nothing
        saved = {k: v.clone() for k, v in dec.tensors().items()}
        dec = vae.decoder_state(batch, height // 16, width // 16)
        dec.load(saved)
        frames.append(vae.decode_stream(z, dec))
        latents.append(z)
        at += n
    torch.testing.assert_close(torch.cat(latents, 2), whole_z, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat(frames, 2), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("started", [pytest.param(0, id="at the start"), pytest.param(2, id="in the middle")])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
@torch.inference_mode()
def test_priming_leaves_the_decoder_as_decoding_does(vae: CompactVAE, count: int, started: int) -> None:
    z = torch.randn(2, 8, started + count, 2, 3)
    primed, decoded = vae.decoder_state(2, 2, 3), vae.decoder_state(2, 2, 3)
    for state in (primed, decoded):
        if started:
            vae.decode_stream(z[:, :, :started], state)
    vae.prime_decoder(z[:, :, started:], primed)
    vae.decode_stream(z[:, :, started:], decoded)
    assert primed.position == decoded.position
    kept = decoded.tensors()
    for name, memory in primed.tensors().items():
        torch.testing.assert_close(memory, kept[name], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_memory_is_causal_and_used(vae: CompactVAE) -> None:
    z = torch.randn(1, 8, 4, 2, 2)
    changed = z.clone()
    changed[:, :, 1] += 1.0
    a, b = vae.decode(z), vae.decode(changed)
    assert torch.equal(a[:, :, :4], b[:, :, :4]), "a later latent changed an earlier frame"
    assert not torch.allclose(a[:, :, 8:12], b[:, :, 8:12]), "the decoder does not remember the previous latent"


@torch.inference_mode()
def test_four_copies_of_an_image_encode_like_a_still_video(vae: CompactVAE) -> None:
    image = torch.rand(1, 3, 1, 32, 48) * 2 - 1
    still = vae.encode(image.expand(-1, -1, 24, -1, -1))
    torch.testing.assert_close(vae.encode(image.expand(-1, -1, 4, -1, -1)), still[:, :, -1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(vae.encode_still(image, 6), still, atol=1e-5, rtol=1e-5)


def test_a_picture_of_another_size_is_refused_as_a_video_is(vae: CompactVAE) -> None:
    picture = torch.zeros(1, 3, 1, 40, 32)
    for encode in (lambda: vae.encode_still(picture, 1), lambda: vae.encode(picture.expand(-1, -1, 4, -1, -1))):
        with pytest.raises(InputError, match=r"frames of 32x40 cannot be encoded"):
            encode()


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 3, 6, 32, 32), id="six frames"),
        pytest.param((1, 3, 4, 40, 32), id="side not a multiple of 16"),
    ],
)
def test_refuses_what_it_cannot_encode(vae: CompactVAE, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="multiple of"):
        vae.encode(torch.zeros(shape))


def test_mini_fits_its_budget() -> None:
    with torch.device("meta"):
        model = CompactVAE(MINI.vae)
    encoder = sum(p.numel() for p in model.encoder.parameters())
    decoder = sum(p.numel() for p in model.decoder.parameters())
    assert encoder < 3.75e6
    assert decoder < 5.5e6


def test_an_unsharp_mask_brings_back_what_a_blur_took_and_leaves_level_parts() -> None:
    x = torch.linspace(0, 40, 64)
    wave = torch.sin(x * 0.5 * torch.pi / 1.3).view(1, 1, 1, -1).expand(1, 3, 48, -1).contiguous()
    sharper = UnsharpMask(0.5)(wave)
    assert float(sharper[..., 4:-4].std() / wave[..., 4:-4].std()) > 1.02
    level = torch.full((2, 3, 16, 16), 0.25)
    torch.testing.assert_close(UnsharpMask(0.5)(level), level)


def test_a_blur_is_the_same_on_a_cpu_and_on_a_gpu() -> None:
    noise = torch.randn(2, 3, 20, 28, generator=torch.Generator().manual_seed(0))
    mask = UnsharpMask(0.3)
    torch.testing.assert_close(blur_by_sums(noise), mask.blur_by_convolution(noise))
    torch.testing.assert_close(mask(noise), noise + 0.3 * (noise - blur_by_sums(noise)))


def test_the_output_is_sharpened_in_streams_and_at_once() -> None:
    torch.manual_seed(0)
    plain = CompactVAE(TINY.vae).eval()
    sharp = CompactVAE(replace(TINY.vae, output_sharpen=0.3)).eval()
    sharp.load_state_dict(plain.state_dict())
    latents = torch.randn(1, TINY.vae.z_dim, 3, 4, 4)
    with torch.inference_mode():
        one, other = plain.decode(latents), sharp.decode(latents)
        state = sharp.decoder_state(1, 4, 4)
        streamed = torch.cat([sharp.decode_stream(part, state) for part in latents.split(1, 2)], 2)
        copying, _ = sharp.decode_copying(latents, None)
    assert not torch.equal(one, other)
    expected = UnsharpMask(0.3)(one[0].transpose(0, 1)).transpose(0, 1)[None]
    torch.testing.assert_close(other, expected)
    torch.testing.assert_close(streamed, other, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(copying, other, atol=1e-5, rtol=1e-5)
