"""Streaming state of a causal autoencoder: named history tensors that a caller owns, stores and restores.

The networks hold nothing but weights; what a stream must remember between calls (the last inputs of every temporal
layer) lives here. Knows no network.
"""

from typing import Protocol

import torch
from torch import Tensor

_POSITION = "position"


class State(Protocol):
    """Memory of one stream: flat, named tensors that can be stored and restored."""

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors needed to continue elsewhere; they are the live ones, clone them to keep a copy."""
        ...

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore a result of `tensors`."""
        ...


class StreamState:
    """Memory of one encoder or decoder stream: named history tensors and a count of consumed frames or latents.

    Histories are created at first use, as zeros, and then updated in place, so their addresses (which CUDA graphs
    record) never change during a stream.
    """

    def __init__(self, batch: int, h: int, w: int) -> None:
        """Start an empty stream of `batch` videos of latent size [h, w]."""
        self.batch = batch
        self.h = h
        self.w = w
        self.position = 0  # latents decoded, or frames encoded, so far
        self.constants: dict[str, Tensor] = {}  # of the whole stream; computed anew by whoever restores it, not stored
        self._histories: dict[str, Tensor] = {}

    def __contains__(self, name: str) -> bool:
        """Tell if the history `name` exists already."""
        return name in self._histories

    def history(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return the history `name`; create it as zeros of `shape` with the dtype and device of `like` if absent."""
        history = self._histories.get(name)
        if history is None:
            history = self._histories[name] = torch.zeros(shape, dtype=like.dtype, device=like.device)
        assert history.shape == torch.Size(shape), f"{name}: stored {tuple(history.shape)}, requested {shape}"
        return history

    def keep(self, name: str, value: Tensor) -> None:
        """Overwrite the history `name` in place."""
        history = self._histories.get(name)
        if history is None:
            self._histories[name] = value.detach().clone()
        else:
            history.copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors needed to continue elsewhere; they are the live ones, clone them to keep a copy."""
        return {_POSITION: torch.tensor(self.position), **self._histories}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore a result of `tensors`; existing histories keep their device."""
        self.position = int(tensors[_POSITION])
        stale = self._histories.keys() - tensors.keys()
        for name in stale:
            del self._histories[name]
        for name, value in tensors.items():
            if name != _POSITION:
                self.keep(name, value)

    def to(self, device: torch.device | str) -> "StreamState":
        """Move every history and constant to `device` and return self."""
        self.constants = {name: value.to(device) for name, value in self.constants.items()}
        self._histories = {name: value.to(device) for name, value in self._histories.items()}
        return self
