"""Interface between the engine and the networks that compute for it: plain modules, or their fast form on a GPU."""

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from liveavatar.config import ModelConfig
from liveavatar.engine.decoder import Decoder
from liveavatar.engine.denoiser import Conditioning, Denoiser, DenoiseSpec, Relay
from liveavatar.engine.placement import RankWork
from liveavatar.engine.pose_latents import VideoEncoder
from liveavatar.engine.threads import Threads


class Backend(Protocol):
    """Networks of one model on one device; `liveavatar.load` lists the kinds there are.

    A rank of a group has only the networks that its share of the work needs; the others are None.
    """

    config: ModelConfig
    dit: Any  # the transformer
    vae: Any  # the autoencoder
    device: torch.device
    fp8: bool  # whether the linear layers of the transformer are in 8 bits
    shares_threads: bool  # between denoising and decoding; see `Threads`

    @property
    def dtype(self) -> torch.dtype:
        """Dtype that the networks compute in."""

    def check_kv_dtype(self, kv_cache_dtype: str) -> None:
        """Refuse a precision of keys and values that this backend or its device does not have.

        Raises:
            InputError: it is for another model, or for GPUs.
            CapacityError: the GPU cannot do it.
        """

    def still_latents(self, image: np.ndarray) -> tuple[Tensor, Tensor]:
        """Encode a picture [H, W, 3]: reference [1, C, 1, h, w] and motion [1, C, 19, h, w] latents."""

    def denoiser(
        self, spec: DenoiseSpec, conditioning: Conditioning, work: RankWork, relay: Relay | None = None
    ) -> Denoiser:
        """Make the denoiser of a rank's steps.

        Args:
            spec: of the stream.
            conditioning: on the device.
            work: the steps.
            relay: where the transformer's layers are on several ranks.

        Raises:
            InputError: its rings are to wait in host memory, and this backend has none that can.
        """

    def decoder(self, motion: Tensor, image: np.ndarray, threads: Threads) -> Decoder:
        """Make the decoder of a stream, primed by the latents [1, C, 19, h, w] of its portrait [H, W, 3]."""

    def video_encoder(self, h: int, w: int) -> VideoEncoder:
        """Return the encoder of videos of latent size [h, w]."""

    def forget_sizes(self) -> None:
        """Free buffers and graphs of past jobs; the next job makes new ones."""
