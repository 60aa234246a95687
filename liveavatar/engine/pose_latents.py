"""Pose latents of a drawn skeleton, block by block, as the released model was trained on them.

A clip's pictures are encoded behind a copy of its first one, whose latent is dropped: so every latent covers four
pictures, and no clip depends on another. Within a clip the causal encoder goes on from block to block. After a resume
in mid-clip the clip's earlier blocks are encoded again, which gives the same bits.

Shapes: C latent channels, h/w latent height and width, T pictures, H/W pixels.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from liveavatar.model.stream_state import State
from liveavatar.timing import BLOCK_FRAMES, LATENT_FRAMES


class Pictures(Protocol):
    """Pictures of a skeleton video at 25 fps."""

    def frames(self, start: int, stop: int) -> np.ndarray:
        """Return pictures uint8 [stop - start, H, W, 3], black after the end."""


class VideoEncoder(Protocol):
    """The encoder of a causal autoencoder, on its device."""

    def state(self) -> State:
        """Start a video."""

    def encode(self, video_13THW: Tensor, state: State) -> Tensor:
        """Encode the next pictures in -1..1 to latents [1, C, T', h, w]: 1 picture first, then multiples of four."""


class SkeletonLatents:
    """Pose latents of a job's blocks."""

    def __init__(self, pictures: Pictures, encoder: VideoEncoder, clip_blocks: int) -> None:
        """Begin before the first block.

        Args:
            pictures: of the whole job.
            encoder: turns them into latents.
            clip_blocks: blocks of a clip.
        """
        self.pictures, self.encoder, self.clip_blocks = pictures, encoder, clip_blocks
        self._state: State | None = None
        self._next = 0  # block that the state stands before
        self._last: Tensor | None = None

    @torch.inference_mode()
    def latents(self, index: int) -> Tensor:
        """Return the pose latents [1, C, 3, h, w] of a block; the same block again costs nothing."""
        if self._last is not None and index == self._next - 1:
            return self._last
        first = index - index % self.clip_blocks
        begin = index if self._state is not None and index == self._next and index != first else first
        for block in range(begin, index + 1):
            self._last = self._encode(block, block == first)
        self._next = index + 1
        assert self._last is not None
        return self._last

    def _encode(self, block: int, begins: bool) -> Tensor:
        pictures = torch.from_numpy(self.pictures.frames(block * BLOCK_FRAMES, (block + 1) * BLOCK_FRAMES))
        video = pictures.permute(3, 0, 1, 2)[None].float() / 255 * 2 - 1
        if begins:
            self._state = self.encoder.state()
            self.encoder.encode(video[:, :, :1], self._state)
        assert self._state is not None
        # Latent by latent, which bounds the memory of the encoder's widest level.
        parts = [self.encoder.encode(part, self._state) for part in video.split(LATENT_FRAMES, dim=2)]
        return torch.cat(parts, dim=2)
