"""Denoise steps of one stream on one device: their settings, conditioning and protocol.

A denoiser with all steps is what one device runs; one with a few is a rank of a group. Both compute a step in
the same way from the same inputs, which is why every placement gives the same latents. The plain denoiser is in
`liveavatar.engine.plain`, that of the fast path in `liveavatar.fast.denoise`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from liveavatar.config import ModelConfig
from liveavatar.engine.clock import on_device
from liveavatar.engine.pose_latents import SkeletonLatents
from liveavatar.engine.resumable import Resumable
from liveavatar.engine.sampling import clip_noise, reference_distance
from liveavatar.engine.settings import RenderSettings
from liveavatar.errors import InputError
from liveavatar.model.audio_encoder import AudioTokens
from liveavatar.pose.blinks import eye_track
from liveavatar.pose.track import EYES, pose_latents
from liveavatar.timing import BLOCK_FRAMES, BLOCK_LATENTS, LATENT_FRAMES


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoiseSpec:
    """Settings and shapes that determine one stream's denoising (no conditioning tensors)."""

    settings: RenderSettings
    sigmas: tuple[float, ...]  # noise levels, one more than steps: the terminal 0 included
    num_blocks: int
    h: int  # latent height
    w: int  # latent width
    skeleton: bool = False  # blocks have pose latents of a drawn skeleton
    rings_on_host: bool = False  # rings wait in host memory; they make the same latents

    @property
    def clip_blocks(self) -> int:
        """Blocks per clip: how far one draw of noise reaches, and when the reference may change (`reanchors_at`)."""
        return self.settings.infer_frames // BLOCK_FRAMES

    @property
    def num_steps(self) -> int:
        """Denoise steps of a block."""
        return len(self.sigmas) - 1


def reanchors_at(config: ModelConfig, spec: DenoiseSpec, block: int) -> bool:
    """Tell if the first generated latent becomes the reference right before a block: the first of the second clip."""
    return config.reanchor and block == spec.clip_blocks


def is_reanchored(config: ModelConfig, spec: DenoiseSpec, position: int) -> bool:
    """Tell if it became the reference before one of the blocks that a snapshot at block `position` has behind it."""
    return config.reanchor and position > spec.clip_blocks


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Encoded picture, prompt and pose of a job, in the dtype of the transformer."""

    text: Tensor  # rows of the text encoder [1, L, text_dim]
    reference: Tensor  # [1, C, 1, h, w]
    motion: Tensor  # [1, C, 19, h, w]
    pose: Tensor | None = None  # head and eyes [T, 6] of all latents, eyes NaN as seeded; None: all move by themselves
    skeleton: SkeletonLatents | None = None  # for models guided by a drawn skeleton instead

    def to(self, device: torch.device) -> "Conditioning":
        """Copy the conditioning to a device."""
        pose = None if self.pose is None else self.pose.to(device)
        return Conditioning(
            self.text.to(device), self.reference.to(device), self.motion.to(device), pose, self.skeleton
        )


class Relay(Protocol):
    """Way of the sinks through the ranks of a group that have the layers before and after."""

    def receive(self) -> tuple[Tensor, Tensor]:
        """Wait for what the layer before made: the sum and the branch beside it, on this rank's device."""

    def send(self, x: Tensor, y: Tensor) -> None:
        """Begin to send what the last layer here made."""


class Denoiser(Protocol):
    """Some of the denoise steps of a stream: its sinks, a ring of keys and values per step, its noise levels."""

    hidden: tuple[Tensor, ...]  # between two layers, where the last step here is ended on another rank

    @property
    def rings(self) -> Mapping[int, Resumable]:
        """Ring of each step; a snapshot is made of them by `ring_tensors` and `load_rings`."""

    def noise(self, index: int) -> Tensor:
        """Return the noise [1, C, 3, h, w] that a block starts from."""

    def reanchor(self, reference: Tensor, motion: Tensor | None = None) -> None:
        """Compute the sinks anew for another reference latent [1, C, 1, h, w] and, unless None, motion latents."""

    def queue(
        self,
        index: int,
        x: Tensor,
        audio: AudioTokens,
        hidden: Sequence[Tensor] = (),
        pose: Tensor | None = None,
        step: int | None = None,
    ) -> tuple[Tensor, list[Any]]:
        """Begin to take a block through these steps; on a GPU its kernels are queued when this returns.

        Args:
            index: of the block.
            x: its latents [1, C, 3, h, w] after the steps before these.
            audio: its audio tokens.
            hidden: activations of the layer before the first one here, where the first step is begun elsewhere.
            pose: its pose latents, where another rank made them.
            step: the only one of these steps to take now; None: all.

        Returns:
            Its latents after these steps, good until the next block, and the marks before, between and after the
            steps. Where the last step is not ended here, `self.hidden` goes on elsewhere.
        """


class StreamInputs(Protocol):
    """Noise, pose latents and distance of the reference for each block of a stream."""

    @property
    def spec(self) -> DenoiseSpec:
        """Settings and shapes of the stream."""

    def noise(self, index: int, device: torch.device) -> Tensor:
        """Return the noise [1, C, 3, h, w] of a block."""

    def distance(self, index: int, step: int) -> int:
        """Return how many latents ahead of a block a denoise step places the reference."""

    def pose(self, index: int, device: torch.device) -> Tensor | None:
        """Return the pose latents [1, C, 3, h, w] of a block; None for a stream without."""


class BlockInputs:
    """Inputs of a job, all functions of the block's index."""

    def __init__(self, config: ModelConfig, spec: DenoiseSpec, conditioning: Conditioning, dtype: torch.dtype) -> None:
        self.config, self.dtype = config, dtype
        self.pose_track, self.skeleton = conditioning.pose, conditioning.skeleton
        self.spec: DenoiseSpec = spec
        self._noise: tuple[int, Tensor] | None = None  # of the last clip

    @torch.inference_mode()
    def noise(self, index: int, device: torch.device) -> Tensor:
        """Draw the noise [1, C, 3, h, w] of a block."""
        spec = self.spec
        clip, block = divmod(index, spec.clip_blocks)
        if self._noise is None or self._noise[0] != clip:
            shape = (self.config.dit.in_dim, spec.settings.infer_frames // LATENT_FRAMES, spec.h, spec.w)
            noise = clip_noise(spec.settings.seed, clip, shape).to(self.dtype)
            self._noise = (clip, on_device(noise, device))
        at = block * BLOCK_LATENTS
        return self._noise[1][None, :, at : at + BLOCK_LATENTS]

    def distance(self, index: int, step: int) -> int:
        """Return how many latents ahead of a block a denoise step places the reference; the same at all steps."""
        return reference_distance(self.config.dit.ref_distance, self.spec.settings.seed, index)

    @property
    def has_pose(self) -> bool:
        """Return whether blocks have pose latents."""
        return self.pose_track is not None or self.spec.skeleton or self.config.lids_conditioned

    def pose(self, index: int, device: torch.device) -> Tensor | None:
        """Return the pose latents [1, C, 3, h, w] of a block; None for a stream without."""
        config, spec, frame, eyes = self.config, self.spec, index * BLOCK_LATENTS, None
        if self.skeleton is not None:
            return self.skeleton.latents(index).to(device, self.dtype)
        if not self.has_pose:
            return None
        head = eyes_of_user = None
        if self.pose_track is not None:
            head, eyes_of_user = self.pose_track[frame : frame + BLOCK_LATENTS].split((3, EYES), -1)
        if config.lids_conditioned:
            track = torch.from_numpy(eye_track(spec.settings.seed, frame, BLOCK_LATENTS)).to(self.dtype)
            eyes = on_device(track, device)
            if eyes_of_user is not None:
                eyes = torch.where(eyes_of_user.isnan(), eyes, eyes_of_user.to(eyes.dtype))
            eyes = eyes if config.gaze_conditioned else eyes[:, :1]
        return pose_latents(head, spec.h, spec.w, eyes, config.dit.cond_dim)[None]


def ring_tensors(rings: Mapping[int, Resumable]) -> dict[str, Tensor]:
    """Name the tensors of each step's ring for a snapshot; live until the next block."""
    return {f"cache{step}.{name}": t for step, ring in rings.items() for name, t in ring.tensors().items()}


@torch.inference_mode()
def load_rings(rings: Mapping[int, Resumable], tensors: dict[str, Tensor]) -> None:
    """Load each step's ring from a snapshot.

    Raises:
        InputError: the rings of the snapshot are of another precision.
    """
    for step, ring in rings.items():
        own, saved = ring.tensors(), below(tensors, f"cache{step}.")
        if {name: t.dtype for name, t in own.items()} != {name: t.dtype for name, t in saved.items()}:
            raise InputError(
                f"the snapshot holds keys and values in {_dtypes(saved)}, and this job in {_dtypes(own)}; "
                "drop --resume, or use the --kv_cache_dtype that the job began with"
            )
        ring.load(saved)


def below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Select entries by key prefix and strip the prefix."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _dtypes(ring: dict[str, Tensor]) -> str:
    names = dict.fromkeys(str(ring[name].dtype).removeprefix("torch.") for name in ("k", "v") if name in ring)
    return " and ".join(names) or "nothing"
