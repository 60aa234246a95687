"""What every video autoencoder of the engine can do, its streaming state, and the factory that builds one.

An autoencoder is *causal*: a frame never depends on later ones, so a video can be decoded block by block
for ever. What a stream must remember between calls (the last inputs of every temporal layer) lives in a
`StreamState` that the caller owns; the networks themselves hold nothing but weights.

Shapes: B batch, T frames or latents, C latent channels, h/w latent height and width, H/W pixels.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from liveavatar.config import VAEConfig
from liveavatar.errors import CheckpointError

_POSITION = "position"


class State(Protocol):
    """The memory of one stream: flat, named tensors that can be stored and restored."""

    def tensors(self) -> dict[str, Tensor]:
        """Everything needed to go on elsewhere; the tensors are the live ones, clone them to keep them."""
        ...

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` returned."""
        ...


class StreamState:
    """The memory of one encoder or decoder stream: named history tensors and a count of what was consumed.

    Histories appear at their first use, as zeros, and are afterwards updated in place, so their addresses
    stay put for the life of the stream.
    """

    def __init__(self, batch: int, h: int, w: int) -> None:
        """Start an empty stream of `batch` videos of latent size [h, w]."""
        self.batch = batch
        self.h = h
        self.w = w
        self.position = 0  # latents decoded, or frames encoded, so far
        self._histories: dict[str, Tensor] = {}

    def history(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """The tensor kept under `name`; zeros of `shape` with the dtype and device of `like` if there is none."""
        kept = self._histories.get(name)
        if kept is None:
            kept = self._histories[name] = torch.zeros(shape, dtype=like.dtype, device=like.device)
        assert kept.shape == torch.Size(shape), f"{name}: {tuple(kept.shape)} kept, {shape} asked"
        return kept

    def keep(self, name: str, value: Tensor) -> None:
        """Overwrite the history `name` in place."""
        kept = self._histories.get(name)
        if kept is None:
            self._histories[name] = value.detach().clone()
        else:
            kept.copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """Everything needed to go on elsewhere; the tensors are the live ones, clone them to keep them."""
        return {_POSITION: torch.tensor(self.position), **self._histories}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` returned, keeping the device of histories that exist already."""
        self.position = int(tensors[_POSITION])
        stale = self._histories.keys() - tensors.keys()
        for name in stale:
            del self._histories[name]
        for name, value in tensors.items():
            if name != _POSITION:
                self.keep(name, value)

    def to(self, device: torch.device | str) -> "StreamState":
        """Move every history to `device`; returns self."""
        self._histories = {name: value.to(device) for name, value in self._histories.items()}
        return self


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
