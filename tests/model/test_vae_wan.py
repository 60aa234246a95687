"""The Wan autoencoder: streamed equals whole for any cut, official names, sizes other than the released ones."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from liveavatar.checkpoints.weight_files import module_shapes
from liveavatar.config import LIVE_AVATAR_14B, VAEConfig
from liveavatar.model.vae import VideoVAE, build_vae
from liveavatar.model.vae_wan import WanVAE, still_runs

# sha256 of the sorted lines "key [shape]" of the published Wan 2.1 autoencoder.
PUBLISHED_KEYS = "6d12bd5199d9dcd5b316dbc98c72a68be03e0ac320eb14a4ccd3b5a7bac04ca8"
TRIMMED = Path(__file__).parent.parent / "parity"


def config(widths: tuple[int, ...], temporal: tuple[bool, ...], z_dim: int = 4, num_res_blocks: int = 1) -> VAEConfig:
    return VAEConfig(
        kind="wan",
        z_dim=z_dim,
        spatial_stride=2 ** (len(widths) - 1),
        encoder_widths=widths,
        decoder_widths=widths[::-1],
        mean=tuple(0.1 * i for i in range(z_dim)),
        std=tuple(1.0 + 0.1 * i for i in range(z_dim)),
        num_res_blocks=num_res_blocks,
        temporal_downsample=temporal,
    )


SMALL = config((4, 8, 8, 8), (False, True, True))


def build(cfg: VAEConfig) -> WanVAE:
    torch.manual_seed(0)
    return WanVAE(cfg).eval()


def split(x: Tensor, sizes: list[int]) -> list[Tensor]:
    return list(x.split(sizes, dim=2))


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param([1] * 6, id="latent by latent"),
        pytest.param([1, 3, 2], id="one, then blocks"),
        pytest.param([4, 2], id="primed, then a block"),
        pytest.param([6], id="at once"),
    ],
)
def test_streamed_decode_equals_whole(cut: list[int]) -> None:
    vae = build(SMALL)
    latents = torch.randn(2, 4, 6, 3, 5)
    state = vae.decoder_state(2, 3, 5)
    frames = torch.cat([vae.decode_stream(c, state) for c in split(latents, cut)], dim=2)
    assert frames.shape == (2, 3, 21, 24, 40)
    torch.testing.assert_close(frames, vae.decode(latents), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param([1, 4, 4, 4], id="one, then latents"),
        pytest.param([5, 8], id="two latents at a time"),
        pytest.param([13], id="at once"),
    ],
)
def test_streamed_encode_equals_whole(cut: list[int]) -> None:
    vae = build(SMALL)
    video = torch.rand(1, 3, 13, 16, 24) * 2 - 1
    state = vae.encoder_state(1, 2, 3)
    latents = torch.cat([vae.encode_stream(c, state) for c in split(video, cut)], dim=2)
    assert latents.shape == (1, 4, 4, 2, 3)
    torch.testing.assert_close(latents, vae.encode(video), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("cfg", "frames"),
    [
        pytest.param(config((6, 12), (True,), z_dim=3), 7, id="two stages, half rate"),
        pytest.param(config((4, 4, 8), (False, True), num_res_blocks=2), 7, id="three stages, half rate"),
        pytest.param(config((4, 8, 8), (True, True), z_dim=5), 13, id="time halves in the first stages"),
    ],
)
def test_other_sizes(cfg: VAEConfig, frames: int) -> None:
    vae, side = build(cfg), cfg.spatial_stride
    video = torch.rand(1, 3, frames, 2 * side, 3 * side)
    latents = vae.encode(video)
    assert latents.shape == (1, cfg.z_dim, 4, 2, 3)
    state = vae.decoder_state(1, 2, 3)
    streamed = torch.cat([vae.decode_stream(c, state) for c in split(latents, [1, 2, 1])], dim=2)
    assert streamed.shape == video.shape
    torch.testing.assert_close(streamed, vae.decode(latents), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("cfg", "num_latents", "runs"),
    [
        pytest.param(SMALL, 19, [4, 5, 7, 19], id="one block a level"),
        pytest.param(replace(SMALL, num_res_blocks=2), 19, [5, 7, 11, 19], id="as released"),
        pytest.param(config((4, 8), (True,)), 24, [5, 19], id="all levels settle"),
    ],
)
def test_a_still_video_is_encoded_bit_for_bit_with_less_work(
    cfg: VAEConfig, num_latents: int, runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    vae, side, made = build(cfg), cfg.spatial_stride, []
    picture = torch.rand(1, 3, 1, 2 * side, 3 * side) * 2 - 1
    frames = 1 + vae.latent_frames * (num_latents - 1)
    wanted = vae.encode(picture.expand(-1, -1, frames, -1, -1))
    level = vae.encoder.level
    monkeypatch.setattr(vae.encoder, "level", lambda index, *rest: (made.append(index), level(index, *rest))[1])
    assert torch.equal(vae.encode_still(picture, num_latents), wanted)
    assert [made.count(i) for i in range(len(runs))] == runs == still_runs(cfg, num_latents)
    assert torch.equal(vae.encode_still(picture, 1), vae.encode(picture))


def test_output_is_causal() -> None:
    vae = build(SMALL)
    latents = torch.randn(1, 4, 4, 2, 2)
    changed = latents.clone()
    changed[:, :, 3] += 1
    before, after = vae.decode(latents), vae.decode(changed)
    torch.testing.assert_close(before[:, :, :9], after[:, :, :9], atol=1e-6, rtol=0)
    assert (before[:, :, 9:] - after[:, :, 9:]).abs().max() > 1e-3


def test_state_goes_on_elsewhere() -> None:
    vae = build(SMALL)
    latents = torch.randn(1, 4, 4, 2, 2)
    state = vae.decoder_state(1, 2, 2)
    vae.decode_stream(latents[:, :, :2], state)
    stored = {name: t.clone() for name, t in state.tensors().items()}
    expected = vae.decode_stream(latents[:, :, 2:], state)
    other = vae.decoder_state(1, 2, 2)
    other.load(stored)
    assert torch.equal(vae.decode_stream(latents[:, :, 2:], other), expected)


def test_frames_that_fill_no_latent_are_refused() -> None:
    vae = build(SMALL)
    with pytest.raises(ValueError, match="do not fill whole latents"):
        vae.encode(torch.zeros(1, 3, 4, 16, 16))


def test_meets_the_protocol() -> None:
    assert isinstance(build_vae(SMALL), VideoVAE)


def test_official_names_and_shapes() -> None:
    with torch.device("meta"):
        ours = module_shapes(WanVAE(replace(LIVE_AVATAR_14B.vae)))
    listed = "\n".join(sorted(f"{key} {list(shape)}" for key, shape in ours.items()))
    assert hashlib.sha256(listed.encode()).hexdigest() == PUBLISHED_KEYS


def test_decoder_of_the_trimmed_parity_set() -> None:
    io = {k: v.float() for k, v in load_file(TRIMMED / "vae_io.safetensors").items()}
    cfg = replace(
        config((8, 16, 32, 32), (False, True, True), z_dim=16, num_res_blocks=2),
        mean=tuple(io["mean"].tolist()),
        std=tuple(io["std"].tolist()),
    )
    vae = build(cfg)
    weights = load_file(TRIMMED / "vae_weights.safetensors")
    result = vae.load_state_dict({k: v.float() for k, v in weights.items()}, strict=False)
    assert not result.unexpected_keys
    assert all(k.startswith(("encoder.", "conv1.")) for k in result.missing_keys)
    torch.testing.assert_close(vae.decode(io["dec.latent"]), io["dec.whole"], atol=5e-3, rtol=0)
