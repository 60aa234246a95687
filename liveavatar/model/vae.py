"""Interface of the causal video autoencoders, and the factory that builds one.

*Causal*: a frame never depends on later ones, so a video of any length can be decoded block by block. Streaming state
lives in `stream_state.StreamState`, which the caller owns; the networks hold nothing but weights.

Shapes: B batch, T frames or latents, C latent channels, h/w latent height and width, H/W pixels.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from liveavatar.config import VAEConfig
from liveavatar.errors import CheckpointError
from liveavatar.model.stream_state import State


@runtime_checkable
class VideoVAE(Protocol):
    """A causal video autoencoder over normalised latents; whole and streamed passes give the same result."""

    config: VAEConfig

    def encode(self, video: Tensor) -> Tensor:
        """Video [B,3,T,H,W] in [-1,1] -> normalised mean latents [B,C,T',h,w]."""
        ...

    def encode_still(self, picture: Tensor, num_latents: int) -> Tensor:
        """Latents [B,C,num_latents,h,w] of a video that shows nothing but a picture [B,3,1,H,W]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents [B,C,T',h,w] -> video [B,3,T,H,W], not clamped."""
        ...

    def encoder_state(self, batch: int, h: int, w: int) -> State:
        """An empty encoder stream for latents of size [h, w]."""
        ...

    def encode_stream(self, video: Tensor, state: State) -> Tensor:
        """Latents of the next frames; updates `state` in place."""
        ...

    def decoder_state(self, batch: int, h: int, w: int) -> State:
        """An empty decoder stream for latents of size [h, w]."""
        ...

    def decode_stream(self, latents: Tensor, state: State) -> Tensor:
        """Frames of the next latents, one or several; updates `state` in place."""
        ...

    def prime_decoder(self, latents: Tensor, state: State) -> None:
        """Leave `state` as `decode_stream` does where nobody needs the frames."""
        ...


def build_vae(cfg: VAEConfig) -> nn.Module:
    """Build the autoencoder that `cfg` describes; the result is a `VideoVAE` with untrained weights.

    Raises:
        CheckpointError: for an unknown `cfg.kind`.
    """
    if cfg.kind == "wan":
        from liveavatar.model.vae_wan import WanVAE

        return WanVAE(cfg)
    if cfg.kind == "compact":
        from liveavatar.model.vae_compact import CompactVAE

        return CompactVAE(cfg)
    raise CheckpointError(f"config.json names the autoencoder kind {cfg.kind!r}; known kinds are 'wan' and 'compact'")
