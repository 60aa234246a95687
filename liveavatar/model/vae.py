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
        """Encode a video [B,3,T,H,W] in [-1,1] to normalised mean latents [B,C,T',h,w]."""
        ...

    def encode_still(self, picture: Tensor, num_latents: int) -> Tensor:
        """Encode a still video of one picture [B,3,1,H,W] to latents [B,C,num_latents,h,w]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Decode normalised latents [B,C,T',h,w] to video [B,3,T,H,W], not clamped."""
        ...

    def encoder_state(self, batch: int, h: int, w: int) -> State:
        """Create an empty encoder stream for latents of size [h, w]."""
        ...

    def encode_stream(self, video: Tensor, state: State) -> Tensor:
        """Encode the next frames; updates `state` in place."""
        ...

    def decoder_state(self, batch: int, h: int, w: int) -> State:
        """Create an empty decoder stream for latents of size [h, w]."""
        ...

    def set_reference(self, picture: Tensor, latent: Tensor, state: State) -> None:
        """Set the portrait [B,3,1,H,W] and its latent [B,C,1,h,w], from which a stream may copy detail.

        What is derived from it is not part of `state.tensors()`: call it on a restored stream too.
        """
        ...

    def decode_stream(self, latents: Tensor, state: State) -> Tensor:
        """Decode the next latents, one or several; updates `state` in place."""
        ...

    def prime_decoder(self, latents: Tensor, state: State) -> None:
        """Update `state` as `decode_stream` does, without returning frames."""
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
