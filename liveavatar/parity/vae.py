"""Parity of the Wan autoencoder: encode and decode, whole and streamed in several cuts."""

from collections.abc import Iterator

import torch

from liveavatar.model.stream_state import StreamState
from liveavatar.model.vae_wan import WanVAE
from liveavatar.parity.fixtures import Fixtures
from liveavatar.parity.report import Comparison, Part

FILES = ("vae_weights", "vae_io")
TOLERANCE = 5e-5
NAMES = ("vae.encode", "vae.encode_stream", "vae.decode", "vae.decode_stream")
ENCODE_CUTS = ((1, 4), (1, 8), (5, 4), (9, 8))  # frames of the first call, frames of later calls
DECODE_CUTS = ((1, 1), (1, 3), (7, 3), (4, 3))  # latents of the first call, latents of later calls


def load_vae(fix: Fixtures) -> WanVAE:
    """Load the autoencoder of the set."""
    vae = WanVAE(fix.vae_config())
    vae.load_state_dict(fix.file("vae_weights").tensors)
    return vae.eval()


def check(fix: Fixtures) -> Iterator[Part]:
    """Compare with the reference's latents and frames."""
    vae, io = load_vae(fix), fix.file("vae_io")
    stride = vae.config.spatial_stride
    whole, streamed = Comparison(), Comparison()
    for key in sorted(k for k in io.tensors if k.startswith("enc") and k.endswith(".video")):
        video, expected = io[key], io[key.replace(".video", ".latent")]
        whole.add(key, vae.encode(video), expected)
        h, w = video.shape[3] // stride, video.shape[4] // stride
        for first, later in ENCODE_CUTS:
            if first > video.shape[2]:
                continue
            state = vae.encoder_state(video.shape[0], h, w)
            chunks = (video[:, :, :first], *video[:, :, first:].split(later, dim=2))
            parts = [vae.encode_stream(c, state) for c in chunks if c.shape[2]]
            streamed.add(f"{key} cut {first},{later},..", torch.cat(parts, dim=2), expected)
    yield whole.part("vae.encode", TOLERANCE)
    yield streamed.part("vae.encode_stream", TOLERANCE)

    latents, expected = io["dec.latent"], io["dec.whole"]
    whole, streamed = Comparison(), Comparison()
    whole.add("dec.whole", vae.decode(latents), expected)
    whole.add("dec.whole in one call", vae.decode_stream(latents, _decoder_state(vae, latents)), expected)
    for first, later in DECODE_CUTS:
        state = _decoder_state(vae, latents)
        chunks = (latents[:, :, :first], *latents[:, :, first:].split(later, dim=2))
        frames = [vae.decode_stream(c, state) for c in chunks if c.shape[2]]
        streamed.add(f"dec.whole cut {first},{later},..", torch.cat(frames, dim=2), expected)
    yield whole.part("vae.decode", TOLERANCE)
    yield streamed.part("vae.decode_stream", TOLERANCE)


def _decoder_state(vae: WanVAE, latents: torch.Tensor) -> StreamState:
    return vae.decoder_state(latents.shape[0], *latents.shape[3:])
