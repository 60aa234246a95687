"""Placement of all denoise steps in this process."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from liveavatar.engine.backend import Backend
from liveavatar.engine.clock import on_device, seconds
from liveavatar.engine.denoiser import (
    Conditioning,
    Denoiser,
    DenoiseSpec,
    is_reanchored,
    load_rings,
    reanchors_at,
    ring_tensors,
)
from liveavatar.engine.job import Block
from liveavatar.engine.memory import read_memory
from liveavatar.engine.placement import FeaturesOf, Queued, RankWork, Ready, Times, split


class SinglePlacement:
    """A `PlacementFactory` that places every job in this process."""

    def place(self, backend: Backend, spec: DenoiseSpec, conditioning: Conditioning, features: FeaturesOf) -> "Single":
        """Make the placement of a job."""
        denoiser = backend.denoiser(spec, conditioning, self.works(spec.num_steps)[0])
        return Single(backend, spec, denoiser, features)

    def works(self, num_steps: int) -> tuple[RankWork, ...]:
        """Return the share of the only rank."""
        return split(num_steps, 1)

    def job(self) -> AbstractContextManager[None]:
        """Do nothing around a job: no other ranks wait for its end."""
        return nullcontext()

    def forget(self) -> None:
        """Do nothing: no job is kept."""


class Single:
    """A `Placement` of all steps in this process."""

    has_state = True

    def __init__(self, backend: Backend, spec: DenoiseSpec, denoiser: Denoiser, features: FeaturesOf) -> None:
        self.backend, self.spec, self.denoiser, self.features = backend, spec, denoiser, features
        self.first_latent: Tensor | None = None

    @torch.inference_mode()
    def queue(self, index: int) -> Queued:
        """Begin with the next block."""
        backend, denoiser = self.backend, self.denoiser
        if reanchors_at(backend.config, self.spec, index):
            assert self.first_latent is not None
            denoiser.reanchor(self.first_latent)
        audio = backend.dit.encode_audio(on_device(self.features(index), backend.device))
        x, marks = denoiser.queue(index, denoiser.noise(index), audio)
        if index == 0:
            self.first_latent = x[:, :, :1].clone()
        return Queued(x, lambda: Times(seconds(marks), memory=(read_memory(backend.device),)))

    def hear(self, ready: Ready) -> Ready:
        """Return `ready`: no block is begun before it is asked for."""
        return ready

    def note(self, block: Block) -> None:
        """Do nothing: there is no other rank to share with."""

    def snapshots_every(self, blocks: int) -> None:
        """Do nothing: a snapshot is possible after every block."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the rings of all steps; live until the next block."""
        return ring_tensors(self.denoiser.rings)

    def load(self, position: int, tensors: dict[str, Tensor], first_latent: Tensor | None) -> None:
        """Continue at block `position` of a snapshot."""
        load_rings(self.denoiser.rings, tensors)
        self.first_latent = first_latent
        if first_latent is not None and is_reanchored(self.backend.config, self.spec, position):
            self.denoiser.reanchor(first_latent)

    def close(self) -> None:
        """Do nothing: no other ranks take part."""
