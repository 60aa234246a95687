"""Input and output of a stream: a job's picture, features and settings; its finished blocks.

Shapes: C latent channels, h/w latent height and width, L hidden states, T feature frames.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from liveavatar.engine.memory import MemoryReading
from liveavatar.engine.pose_latents import Pictures
from liveavatar.engine.settings import RenderSettings


class Features(Protocol):
    """Driving features: a tensor wrapped by `TensorFeatures`, or a `FeatureFile`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[hidden states, channels, frames]."""

    def __getitem__(self, frames: slice) -> Tensor:
        """Features [L, C, b - a] of frames a:b."""


class TensorFeatures:
    """Features [L, C, T] already in memory."""

    def __init__(self, features_LCT: Tensor) -> None:
        self.tensor = features_LCT
        self.shape = tuple(features_LCT.shape)

    def __getitem__(self, frames: slice) -> Tensor:
        return self.tensor[:, :, frames]


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamJob:
    """Inputs and settings of one video."""

    image: np.ndarray  # uint8 RGB [H, W, 3], already cropped to the output size
    settings: RenderSettings
    features: Features
    num_frames: int
    # Head, lids, gaze: a frame track [F, 3, 4 or 6] of any length, see `liveavatar.pose`.
    pose: np.ndarray | None = None
    portrait_pose: np.ndarray | None = None  # of the image's head [3], radians; some models need it with `pose`
    skeleton: Pictures | None = None  # for models guided by a drawn skeleton, at the image's size (`pose.drawn`)
    # Keys and values of earlier blocks wait in host memory, for an engine loaded with `offload`; the same latents.
    rings_on_host: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """One finished block. The times per rank are empty in a single process."""

    index: int
    latents: Tensor  # [C, 3, h, w] fp32 on the CPU
    frames: np.ndarray | None  # uint8 RGB [<= 12, H, W, 3]; None when not decoded
    step_s: tuple[float, ...]  # seconds of each denoise step
    decode_s: float = 0.0
    wait_s: tuple[float, ...] = ()  # seconds each rank of a group waited for this block
    state: dict[str, Tensor] | None = None  # snapshot after this block if one was due; valid until the next block
    busy_s: tuple[float, ...] = ()  # seconds each rank of a group worked on it, decoding aside
    sent_s: tuple[float, ...] = ()  # seconds that handing on the block before took each rank
    memory: tuple[MemoryReading, ...] = ()  # of each rank; in a single process of that one
