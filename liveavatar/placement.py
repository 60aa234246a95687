"""Where step i of block b runs, and how a latent gets there.

The block loop of `liveavatar.engine` hands every block to a *placement*: `Single` takes it through all steps in this
process; `liveavatar.tpp.Tpp` through the ranks of a group, each with some of the steps. The loop, the snapshots and
the bits of the latents are the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from liveavatar.config import ModelConfig
from liveavatar.denoiser import Conditioning, Course, Denoiser
from liveavatar.errors import InputError
from liveavatar.model.dit import CausalDiT

FeaturesOf = Callable[[int], Tensor]  # index of a block -> its speech features [1, L, C, history + 12]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """What one rank does."""

    rank: int
    steps: tuple[int, ...]
    decodes: bool

    @property
    def role(self) -> str:
        """In words, steps counted from 1."""
        words = []
        if self.steps:
            first, last = self.steps[0] + 1, self.steps[-1] + 1
            words.append(f"step {first}" if first == last else f"steps {first}-{last}")
        return " + ".join([*words, "decoder"] if self.decodes else words)


def split(num_steps: int, num_ranks: int, own_decoder: bool | None = None) -> tuple[Stage, ...]:
    """Spread steps over ranks: contiguous, as even as possible, the decoder last.

    Args:
        num_steps: denoise steps of a block.
        num_ranks: of the group, that of the decoder included.
        own_decoder: whether the last rank decodes and does nothing else; None when that is the only use for it.

    Raises:
        InputError: a rank would have nothing to do.
    """
    own = num_ranks > num_steps if own_decoder is None else own_decoder
    movers = num_ranks - own
    if not 1 <= movers <= num_steps:
        most = num_steps + 1
        raise InputError(
            f"--num_gpus {num_ranks}: {num_steps} steps and a decoder keep 1 to {most} busy; "
            f"use at most {most}, or more --sample_steps"
        )
    # The rank with the decoder never has more steps than the others.
    share, extra = divmod(num_steps, movers)
    stages, first = [], 0
    for rank in range(movers):
        count = share + (rank < extra)
        stages.append(
            Stage(rank=rank, steps=tuple(range(first, first + count)), decodes=not own and rank == movers - 1)
        )
        first += count
    return (*stages, Stage(rank=movers, steps=(), decodes=True)) if own else tuple(stages)


@dataclass(frozen=True, slots=True)
class Denoised:
    """A block after all steps."""

    x: Tensor  # [1, C, 3, h, w], dtype of the transformer
    step_s: tuple[float, ...]  # seconds of each step, wherever it ran
    wait_s: tuple[float, ...] = ()  # seconds each rank waited for this block; empty in one process


class Placement(Protocol):
    """Takes the blocks of one job through all denoise steps, in order."""

    first_latent: Tensor | None  # [1, C, 1, h, w], once there is one
    has_state: bool  # whether `tensors` may be called now

    def run(self, index: int) -> Denoised:
        """The next block."""

    def snapshots_every(self, blocks: int) -> None:
        """Tell ahead after which blocks `tensors` may be called; 0 for none."""

    def tensors(self) -> dict[str, Tensor]:
        """The rings of all steps after the last block; live until the next one."""

    def load(self, position: int, tensors: dict[str, Tensor], first_latent: Tensor | None) -> None:
        """Go on at block `position` of a snapshot."""

    def close(self) -> None:
        """No more blocks of this job."""


class Single:
    """All steps in this process."""

    has_state = True

    def __init__(
        self, dit: CausalDiT, config: ModelConfig, course: Course, given: Conditioning, features: FeaturesOf
    ) -> None:
        self.denoiser = Denoiser(dit, config, course, given, range(course.num_steps))
        self.features = features
        self.first_latent: Tensor | None = None

    def run(self, index: int) -> Denoised:
        """See `Placement`."""
        denoiser = self.denoiser
        if denoiser.config.reanchor and index == denoiser.course.clip_blocks:
            assert self.first_latent is not None
            denoiser.reanchor(self.first_latent)
        audio = denoiser.dit.encode_audio(self.features(index))
        x, step_s = denoiser.run(index, denoiser.noise(index), audio)
        if index == 0:
            self.first_latent = x[:, :, :1].clone()
        return Denoised(x, step_s)

    def snapshots_every(self, blocks: int) -> None:
        """See `Placement`."""

    def tensors(self) -> dict[str, Tensor]:
        """See `Placement`."""
        return self.denoiser.tensors()

    def load(self, position: int, tensors: dict[str, Tensor], first_latent: Tensor | None) -> None:
        """See `Placement`."""
        self.denoiser.load(tensors)
        self.first_latent = first_latent
        if first_latent is not None and self.denoiser.config.reanchor and position > self.denoiser.course.clip_blocks:
            self.denoiser.reanchor(first_latent)

    def close(self) -> None:
        """See `Placement`."""
