"""The fast backend: recorded steps, and a block decoded on a CUDA stream of its own while the next is denoised."""

import logging

import numpy as np
import torch
from torch import Tensor

from liveavatar.checkpoints.load import LoadedModel
from liveavatar.engine.decoder import Decoder, HostDecoder
from liveavatar.engine.denoiser import Conditioning, DenoiseSpec, Relay
from liveavatar.engine.placement import RankWork
from liveavatar.engine.plain import BackendEncoder, image_tensor, model_dtype, plain_decoder, still_latents
from liveavatar.engine.pose_latents import VideoEncoder
from liveavatar.engine.threads import Threads
from liveavatar.errors import CapacityError
from liveavatar.fast import ops
from liveavatar.fast.decode import CudaDecoder, DecodeRunner, OwnDecoder, StreamDecoder
from liveavatar.fast.denoise import FastDenoiser, Runners
from liveavatar.fast.dit import FastDiT
from liveavatar.fast.flash3 import PACKAGE
from liveavatar.fast.vae import FastDecoder, FastEncoder
from liveavatar.model.vae_compact import CompactVAE
from liveavatar.model.vae_wan import WanVAE

log = logging.getLogger(__name__)


class FastBackend:
    """Networks whose transformer is a `FastDiT`; buffers and graphs of a size are kept for the next job.

    Rings are large, so there is one set of them: a new stream takes over from the one before.
    """

    def __init__(self, model: LoadedModel, device: torch.device, fp8: bool = False) -> None:
        self.config, self.vae, self.device, self.fp8 = model.config, model.vae, device, fp8
        self.dit: FastDiT = model.dit
        self.shares_threads = device.type == "cpu"
        self.runners = Runners(self.dit)
        wan = self.vae if isinstance(self.vae, WanVAE) else None
        self.fast_decoder: StreamDecoder | None = None if wan is None else FastDecoder(wan)
        if isinstance(self.vae, CompactVAE) and device.type == "cuda":
            self.fast_decoder = OwnDecoder(self.vae)
        self._encoder = self.vae if wan is None else FastEncoder(wan)
        self._decode: tuple[tuple[int, int], DecodeRunner] | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Dtype that the networks compute in."""
        return model_dtype(self.dit, self.vae)

    def check_kv_dtype(self, kv_cache_dtype: str) -> None:
        """Refuse a precision of keys and values that the GPU does not have.

        Raises:
            CapacityError: it is too old for it, or a package is missing.
        """
        if self.device.type != "cuda":
            return
        checks = {"fp8": ops.has_fp8, "int8": ops.has_attention8, "e4m3": ops.has_attention8}
        reason = checks[kv_cache_dtype](self.device) if kv_cache_dtype in checks else None
        if reason:
            raise CapacityError(
                f"--kv_cache_dtype {kv_cache_dtype}: {reason}; use --kv_cache_dtype bf16, or a GPU of compute "
                "capability 8.9 or more"
            )
        if kv_cache_dtype == "e4m3" and self.dit.attention.load_flash3(self.device) is None:
            raise CapacityError(
                f"--kv_cache_dtype e4m3: FlashAttention-3 does not run here, it needs a Hopper GPU and {PACKAGE}; use "
                "--kv_cache_dtype int8, or on a Hopper GPU pip install 'liveavatar[gpu]'"
            )

    @torch.inference_mode()
    def still_latents(self, image: np.ndarray) -> tuple[Tensor, Tensor]:
        """Encode a picture [H, W, 3]: reference [1, C, 1, h, w] and motion [1, C, 19, h, w] latents."""
        return still_latents(
            self._encoder.encode_still, image_tensor(image).to(self.device, self.dtype), self.config.dit.motion_latents
        )

    def denoiser(
        self, spec: DenoiseSpec, conditioning: Conditioning, work: RankWork, relay: Relay | None = None
    ) -> FastDenoiser:
        """Make the denoiser of a rank's steps, with everything recorded."""
        return FastDenoiser(self.runners, self.config, spec, conditioning, work, relay)

    @torch.inference_mode()
    def decoder(self, motion: Tensor, image: np.ndarray, threads: Threads) -> Decoder:
        """Make the decoder of a stream, primed by the latents [1, C, 19, h, w] of its portrait [H, W, 3]."""
        h, w = motion.shape[-2:]
        runner = self.decode_runner(h, w)
        if runner is None:
            return plain_decoder(self.vae, motion, image, threads)
        runner.set_reference(image_tensor(image).to(motion.device), motion[:, :, :1])
        self._begin(runner, motion[:, :, : self.config.vae.prime_latents])
        if runner.stream is not None:
            return CudaDecoder(runner)
        return HostDecoder(runner.decode, runner.state, threads)

    def _begin(self, runner: DecodeRunner, still_latents: Tensor) -> None:
        """Begin to decode, if need be in the memory of the steps' graphs."""
        if not self._begins(runner, still_latents):
            steps = self.runners.current
            assert steps is not None
            log.warning(
                "the CUDA graphs of denoise steps leave too little memory to decode: kernels are launched one by one"
            )
            steps.forget_graphs()
            runner.begin(still_latents)

    def _begins(self, runner: DecodeRunner, still_latents: Tensor) -> bool:
        """Begin to decode, unless graphs of steps have taken the room."""
        try:
            runner.begin(still_latents)
        except torch.OutOfMemoryError:
            if self.runners.current is None or not self.runners.current.num_recorded:
                raise
            return False
        return True

    def video_encoder(self, h: int, w: int) -> VideoEncoder:
        """Return the encoder of videos of latent size [h, w]."""
        return BackendEncoder(self.vae, self._encoder.encode_stream, self.device, self.dtype, (h, w))

    def decode_runner(self, h: int, w: int) -> DecodeRunner | None:
        """Return the buffers and graph of a latent size; None for the embedded autoencoder on a CPU, or without any."""
        if self.fast_decoder is None:
            return None
        if self._decode is None or self._decode[0] != (h, w):
            self._drop_decode()
            self._decode = ((h, w), DecodeRunner(self.fast_decoder, (h, w), self.dtype, self.device))
        return self._decode[1]

    def drop_decoder(self) -> None:
        """Free the autoencoder, on a rank that turns out not to decode."""
        self._drop_decode()
        self.vae = self.fast_decoder = self._encoder = None

    def forget_sizes(self) -> None:
        """Free buffers and graphs; the next job makes new ones."""
        self._drop_decode()
        self.runners.forget()

    def _drop_decode(self) -> None:
        if self._decode is not None:
            self._decode[1].settle()  # of a job that was given up
        self._decode = None
