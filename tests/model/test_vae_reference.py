"""The branch that copies from the portrait: neutral at first, exact where its flow is known, the same in streams."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from liveavatar.config import TINY
from liveavatar.model.vae_compact import CompactVAE, MemoryBlock
from liveavatar.model.vae_reference import SHARPEN, ReferenceBranch, sample, sample_patches, sharpened

CFG = replace(TINY.vae, reference_width=8)
SIZE = (64, 48)  # height, width
ROUNDING = {"atol": 1e-4, "rtol": 1e-5}  # float32, added up in another order where a convolution is longer


def shaken(vae: CompactVAE) -> CompactVAE:
    """Give layers that start at zero some weight."""
    torch.manual_seed(1)
    for module in vae.modules():
        if isinstance(module, MemoryBlock):
            torch.nn.init.normal_(module.mix.weight, std=0.1)
            torch.nn.init.normal_(module.conv2.weight, std=0.05)
        if isinstance(module, ReferenceBranch):
            for layer in (module.conv_flow, module.conv_join, module.conv_gate):
                torch.nn.init.normal_(layer.weight, std=0.1)
    return vae


@pytest.fixture(scope="module")
def vae() -> CompactVAE:
    torch.manual_seed(0)
    return shaken(CompactVAE(CFG).eval())


def clip(batch: int, latents: int) -> torch.Tensor:
    return torch.rand(batch, 3, 4 * latents, *SIZE, generator=torch.Generator().manual_seed(batch)) * 2 - 1


@torch.inference_mode()
def test_an_untrained_branch_changes_no_bit() -> None:
    torch.manual_seed(0)
    plain, copying = CompactVAE(TINY.vae).eval(), CompactVAE(CFG).eval()
    missing, unexpected = copying.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("decoder.branch.") for name in missing)
    video = clip(2, 3)
    latents, picture = plain.encode(video), video[:, :, :1]
    reference = copying.reference(picture, copying.encode_still(picture, 1))
    assert torch.equal(copying.decode_copying(latents, reference)[0], plain.decode(latents))
    assert plain.reference(picture, latents[:, :, :1]) is None


@pytest.mark.parametrize(
    ("batch", "chunks"),
    [pytest.param(1, [3, 3, 2], id="blocks and a rest"), pytest.param(2, [1, 1, 1], id="two streams, by latent")],
)
@torch.inference_mode()
def test_streaming_and_resuming_equal_decoding_at_once(vae: CompactVAE, batch: int, chunks: list[int]) -> None:
    video = clip(batch, sum(chunks))
    latents, picture = vae.encode(video), video[:, :, -1:]
    latent = vae.encode_still(picture, 1)
    whole, _ = vae.decode_copying(latents, vae.reference(picture, latent))
    assert not torch.allclose(whole, vae.decode(latents), atol=1e-2), "nothing is copied"
    saved: dict[str, torch.Tensor] = {}
    frames = []
    for part in latents.split(chunks, dim=2):
        state = vae.decoder_state(batch, SIZE[0] // 16, SIZE[1] // 16)  # a new process: only the portrait and `saved`
        vae.set_reference(picture, latent, state)
        if saved:
            state.load(saved)
        frames.append(vae.decode_stream(part, state))
        saved = {name: tensor.clone() for name, tensor in state.tensors().items()}
    torch.testing.assert_close(torch.cat(frames, 2), whole, **ROUNDING)
    assert not any(tensor.shape[-2:] == SIZE for tensor in saved.values()), "the portrait is stored with the stream"


@pytest.mark.parametrize("count", [1, 2, 5])
@torch.inference_mode()
def test_priming_leaves_the_decoder_as_decoding_does(vae: CompactVAE, count: int) -> None:
    latents, picture = vae.encode(clip(2, count)), clip(2, 1)[:, :, :1]
    primed, decoded = (vae.decoder_state(2, SIZE[0] // 16, SIZE[1] // 16) for _ in range(2))
    for state in (primed, decoded):
        vae.set_reference(picture, vae.encode_still(picture, 1), state)
    vae.prime_decoder(latents, primed)
    vae.decode_stream(latents, decoded)
    kept = decoded.tensors()
    for name, memory in primed.tensors().items():
        torch.testing.assert_close(memory, kept[name], **ROUNDING)


@torch.inference_mode()
def test_a_full_gate_without_flow_copies_the_portrait() -> None:
    copying = CompactVAE(CFG).eval()
    branch = copying.decoder.branch
    assert branch is not None
    torch.nn.init.ones_(branch.conv_gate.bias)
    torch.nn.init.constant_(branch.reach, 1e-3)  # no cell matches any but its own place
    picture = clip(1, 1)[:, :, :1]
    reference = copying.reference(picture, torch.randn(1, 8, 1, 4, 3))
    video, _ = copying.decode_copying(torch.randn(1, 8, 2, 4, 3), reference)
    torch.testing.assert_close(video, sharpened(picture, SHARPEN).expand_as(video), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_sampling_follows_the_flow() -> None:
    images = torch.rand(2, 3, *SIZE)
    flow = torch.zeros(6, 2, *SIZE)
    still = images.repeat(3, 1, 1, 1)  # time-major
    torch.testing.assert_close(sample(images, flow, 2), still, atol=1e-5, rtol=0)
    flow[:, 0], flow[:, 1] = 3, -2
    torch.testing.assert_close(sample(images, flow, 2)[..., 2:, :-3], still[..., :-2, 3:], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_patches_are_sampled_as_pixels_are() -> None:
    images, flow = torch.rand(2, 3, *SIZE), 3 * torch.randn(6, 2, SIZE[0] // 4, SIZE[1] // 4)
    full = F.interpolate(flow, scale_factor=4.0, mode="bilinear")
    wanted = F.pixel_unshuffle(sample(images, full, 2), 4)
    torch.testing.assert_close(sample_patches(images, flow, 2), wanted, atol=1e-4, rtol=0)


def test_a_sharpened_video_has_more_of_its_detail() -> None:
    flat = torch.full((1, 3, 2, 8, 8), 0.3)
    torch.testing.assert_close(sharpened(flat, 0.5), flat)
    checks = torch.ones(2, 3, 4, 8, 8)
    checks[..., ::2] = -1  # the finest structure there is: a blur takes it away whole
    sharp = sharpened(checks, 0.5)
    torch.testing.assert_close(sharp[..., 2:-2], 1.5 * checks[..., 2:-2])
    video = torch.rand(2, 3, 4, 8, 8)
    alone = torch.stack([sharpened(v[None], 0.3)[0] for v in video])
    torch.testing.assert_close(sharpened(video, 0.3), alone)
