"""The engine: networks of one model on one device, and the streams they make; `liveavatar.load` makes engines."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from liveavatar.config import SKELETON_VIDEO, ModelConfig
from liveavatar.engine.backend import Backend
from liveavatar.engine.denoiser import Conditioning, DenoiseSpec
from liveavatar.engine.job import StreamJob
from liveavatar.engine.placement import FeaturesOf, Placement, RankWork
from liveavatar.engine.pose_latents import SkeletonLatents
from liveavatar.engine.sampling import sigma_steps
from liveavatar.engine.single import SinglePlacement
from liveavatar.engine.stream import Stream
from liveavatar.engine.threads import Threads
from liveavatar.errors import InputError
from liveavatar.pose.track import conditioning_track, fit_eyes, fit_length, latent_track, split_track
from liveavatar.timing import BLOCK_FRAMES, BLOCK_LATENTS, count_blocks

EncodePrompt = Callable[[str], Tensor]  # prompt -> rows of the text encoder [1, L, text_dim]
EncodeStill = Callable[[np.ndarray], tuple[Tensor, Tensor]]  # picture -> latents, see `Backend.still_latents`


class PlacementFactory(Protocol):
    """Places the denoise steps of each job: all in this process, or spread over the ranks of a group."""

    def place(self, backend: Backend, spec: DenoiseSpec, conditioning: Conditioning, features: FeaturesOf) -> Placement:
        """Make the placement of a job."""

    def works(self, num_steps: int) -> tuple[RankWork, ...]:
        """Return each rank's share of a job with `num_steps` denoise steps."""

    def job(self) -> AbstractContextManager[None]:
        """Return a context manager around a whole job; it releases the other ranks on any exit."""

    def forget(self) -> None:
        """Drop the last job and the buffers it refers to."""


class Engine:
    """Networks of one model on one device, and the policy that places a stream's denoise steps."""

    def __init__(
        self,
        backend: Backend,
        encode_prompt: EncodePrompt,
        placement: PlacementFactory | None = None,
        encode_still: EncodeStill | None = None,
        model_dir: Path | None = None,
    ) -> None:
        """Compose an engine.

        Args:
            backend: the networks.
            encode_prompt: the text encoder.
            placement: None places all denoise steps in this process.
            encode_still: None encodes the picture as `backend.still_latents` does.
            model_dir: where the networks were loaded from; the speech encoder may lie there, too.
        """
        self.backend, self.encode_prompt, self.model_dir = backend, encode_prompt, model_dir
        self.placement: PlacementFactory = placement or SinglePlacement()
        self.still_latents = encode_still or backend.still_latents

    @property
    def config(self) -> ModelConfig:
        """Config of the model."""
        return self.backend.config

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return self.backend.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype that the networks compute in."""
        return self.backend.dtype

    def works(self, num_steps: int) -> tuple[RankWork, ...]:
        """Return each rank's share of a job with `num_steps` denoise steps."""
        return self.placement.works(num_steps)

    def job(self) -> AbstractContextManager[None]:
        """Return a context manager that must wrap a whole job; it releases the other ranks on any exit."""
        return self.placement.job()

    def forget_sizes(self) -> None:
        """Free buffers and graphs of past jobs; the next job makes new ones."""
        self.placement.forget()
        self.backend.forget_sizes()

    @torch.inference_mode()
    def open(self, job: StreamJob) -> Stream:
        """Prepare a stream: encode picture and prompt, compute the sinks, warm the decoder.

        Raises:
            InputError: the job does not fit the model, or how the engine was loaded.
            CapacityError: the GPU cannot do what the settings ask for.
        """
        backend, settings = self.backend, job.settings
        self._check(job)
        stride = self.config.vae.spatial_stride
        height, width, _ = job.image.shape
        spec = DenoiseSpec(
            settings=settings,
            sigmas=sigma_steps(self.config, settings.sample_steps),
            num_blocks=count_blocks(job.num_frames),
            h=height // stride,
            w=width // stride,
            skeleton=job.skeleton is not None,
            rings_on_host=job.rings_on_host,
        )
        threads = Threads(torch.get_num_threads(), backend.shares_threads)
        text = self.encode_prompt(settings.prompt_read(self.config.text.words_read)).to(self.dtype)
        reference, motion = self.still_latents(job.image)
        pose, skeleton = self._pose_track(job, spec.num_blocks), self._skeleton(job, spec)
        conditioning = Conditioning(text, reference, motion, pose, skeleton)
        stream = Stream(self.config, job, spec, threads, conditioning)
        stream.begin(
            self.placement.place(backend, spec, conditioning, stream.block_features),
            backend.decoder(motion, job.image, threads),
        )
        return stream

    def still_frame(self, stream: Stream) -> np.ndarray:
        """Decode the portrait of a stream as the model renders it at rest: uint8 [H, W, 3]."""
        threads = Threads(torch.get_num_threads(), False)
        decoder = self.backend.decoder(stream.motion, stream.job.image, threads)
        frame: np.ndarray = decoder.run(stream.motion[:, :, :BLOCK_LATENTS], 0).frames[-1]
        decoder.settle()
        return frame

    def _check(self, job: StreamJob) -> None:
        settings = job.settings
        if settings.infer_frames <= 0 or settings.infer_frames % BLOCK_FRAMES:
            raise InputError(
                f"--infer_frames {settings.infer_frames}: a clip is made of blocks of {BLOCK_FRAMES} frames; "
                f"use a multiple of {BLOCK_FRAMES}, such as 48"
            )
        self.backend.check_kv_dtype(settings.kv_cache_dtype)
        if settings.fp8 != self.backend.fp8:
            has, wants = ("8 bits" if fp8 else str(self.dtype) for fp8 in (self.backend.fp8, settings.fp8))
            raise InputError(
                f"fp8={settings.fp8} in the settings of a job: this engine holds its linear layers in {has}, not in "
                f"{wants}; load it with fp8={settings.fp8}"
            )

    def _skeleton(self, job: StreamJob, spec: DenoiseSpec) -> SkeletonLatents | None:
        """Prepare to encode the drawn skeleton of a job."""
        if job.skeleton is None:
            return None
        if self.config.pose_input != SKELETON_VIDEO:
            raise InputError(f"the model {self.config.name} takes head angles, not drawn pictures; give them as `pose`")
        shape = job.skeleton.frames(0, 1).shape[1:]
        if shape != job.image.shape:
            raise InputError(
                f"the skeleton's pictures have the shape {shape}, the portrait {job.image.shape}; draw them at its size"
            )
        return SkeletonLatents(job.skeleton, self.backend.video_encoder(spec.h, spec.w), spec.clip_blocks)

    def _pose_track(self, job: StreamJob, num_blocks: int) -> Tensor | None:
        """Head pose and eyes [T, 6] of a job, one row for every latent of the stream; NaN: eyes as seeded."""
        if job.pose is None:
            return None
        head, eyes = split_track(job.pose)
        count = num_blocks * BLOCK_FRAMES
        head = fit_length(conditioning_track(self.config, head, job.portrait_pose), count)
        rows = np.concatenate((head, fit_eyes(eyes, count)), 1, dtype=np.float32)
        return latent_track(torch.from_numpy(rows)).to(self.device)
