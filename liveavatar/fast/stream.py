"""Jobs on the fast path: recorded steps, and a block decoded on a second CUDA stream while the next is denoised.

Shapes: C latent channels, h/w latent height and width, T frames, H/W pixels.
"""

import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from liveavatar.checkpoints.load import LoadedModel
from liveavatar.engine.denoiser import Conditioning, DenoiseSpec, mark, seconds
from liveavatar.engine.engine import Block, Engine, Stream, StreamJob
from liveavatar.engine.placement import RankWork, Times
from liveavatar.errors import CapacityError
from liveavatar.fast import ops
from liveavatar.fast.decode import DecodeRunner
from liveavatar.fast.denoise import FastDenoiser, Runners
from liveavatar.fast.dit import FastDiT
from liveavatar.fast.vae import FastDecoder
from liveavatar.model.vae_wan import WanVAE
from liveavatar.timing import BLOCK_FRAMES

log = logging.getLogger(__name__)


class FastEngine(Engine):
    """An engine whose transformer is a `FastDiT`; buffers and graphs of a size are kept for the next job.

    Rings are large, so there is one set of them: a new stream takes over from the one before.
    """

    dit: FastDiT

    def __init__(self, model: LoadedModel, device: torch.device) -> None:
        super().__init__(model, device)
        self.runners = Runners(self.dit)
        self.fast_decoder = FastDecoder(self.vae) if isinstance(self.vae, WanVAE) else None
        self._decode: tuple[tuple, DecodeRunner] | None = None

    def denoiser(self, spec: DenoiseSpec, given: Conditioning, stage: RankWork) -> FastDenoiser:
        """As `Engine.denoiser`, with everything recorded."""
        return FastDenoiser(self.runners, self.config, spec, given, stage)

    def check_kv_dtype(self, kv_cache_dtype: str) -> None:
        """As `Engine.check_kv_dtype`."""
        reason = None
        if self.device.type == "cuda" and kv_cache_dtype in ("fp8", "int8"):
            reason = (ops.has_attention8 if kv_cache_dtype == "int8" else ops.has_fp8)(self.device)
        if reason:
            raise CapacityError(
                f"--kv_cache_dtype {kv_cache_dtype}: {reason}; use --kv_cache_dtype bf16, or a GPU of compute "
                "capability 8.9 or more"
            )

    def open(self, job: StreamJob) -> "FastStream":
        """As `Engine.open`."""
        return FastStream(self, job)

    def forget_sizes(self) -> None:
        """Free buffers and graphs; the next job makes new ones."""
        self._drop_decode()
        self.runners.forget()

    def decode_runner(self, h: int, w: int) -> DecodeRunner | None:
        """The decoder for a video size; None for an autoencoder without a fast form."""
        if self.fast_decoder is None:
            return None
        if self._decode is None or self._decode[0] != (h, w):
            self._drop_decode()
            self._decode = ((h, w), DecodeRunner(self.fast_decoder, (h, w), self.dtype, self.device))
        return self._decode[1]

    def _drop_decode(self) -> None:
        if self._decode is not None:
            self._decode[1].settle()  # of a job that was given up
        self._decode = None


@dataclass(slots=True)
class _Pending:
    """A block whose kernels are under way."""

    index: int
    latents: Tensor  # on the host, once `ready` has passed
    times: Callable[[], Times]  # of the steps
    ready: Any
    frames: Tensor  # on the host, once the decode's second mark has passed
    decode: tuple  # marks around the decode


class FastStream(Stream):
    """One job on the fast path; `next_block` and `blocks` give what `Stream`'s give."""

    engine: FastEngine

    @torch.inference_mode()
    def _begin_decoder(self) -> None:
        self.decoding = self.engine.decode_runner(self.h, self.w)
        if self.decoding is None:
            super()._begin_decoder()
            return
        self.decoder = self.decoding.state
        self.decoding.begin(self.motion[:, :, : self.engine.config.vae.prime_latents])

    @torch.inference_mode()
    def decode(self, latents_1C3hw: Tensor, index: int) -> np.ndarray:
        """As `Stream.decode`."""
        runner = self.decoding
        if runner is None:
            return super().decode(latents_1C3hw, index)
        runner.latents.copy_(latents_1C3hw)
        runner.run()
        runner.host[0].copy_(runner.frames)  # pinned; the copy has arrived when this returns
        return runner.host[0].numpy().copy()

    @torch.inference_mode()
    def blocks(self, decode: bool = True, snapshot_every: int = 0) -> Generator[Block, None, None]:
        """As `Stream.blocks`: on a GPU a block is given while the next one is being made."""
        if self.decoding is None or self.decoding.stream is None or not decode:
            yield from super().blocks(decode, snapshot_every)
            return
        waiting: _Pending | None = None
        while self.position < self.num_blocks:
            pending = self._queue(self.decoding)
            if waiting is not None:
                yield self._finish(waiting)
            waiting = pending
            if pending.index == 0 or self._snapshot_due(snapshot_every):
                block, waiting = self._finish(pending), None
                due = self._snapshot_due(snapshot_every)
                yield replace(block, state=self.snapshot()) if due else block
        if waiting is not None:
            yield self._finish(waiting)

    def _queue(self, runner: DecodeRunner) -> _Pending:
        index = self.position
        queued = self.placement.queue(index)
        self.position += 1
        x = queued.x
        latents = torch.empty(x.shape[1:], pin_memory=True)
        latents.copy_(x[0].float(), non_blocking=True)
        ready = mark(self.engine.device)
        main = torch.cuda.current_stream()
        main.wait_stream(runner.stream)  # the decoder has read the block before
        runner.latents.copy_(x)
        runner.stream.wait_stream(main)
        host = runner.host[index % 2]
        with torch.cuda.stream(runner.stream):
            started = mark(self.engine.device)
            runner.run()
            host.copy_(runner.frames, non_blocking=True)
            stopped = mark(self.engine.device)
        return _Pending(index, latents, queued.times, ready, host, (started, stopped))

    def _finish(self, pending: _Pending) -> Block:
        pending.ready.synchronize()
        left = self.job.num_frames - pending.index * BLOCK_FRAMES
        decode_s = seconds(list(pending.decode))[0]
        frames = pending.frames[:left].numpy().copy()
        times = pending.times()
        return Block(
            pending.index, pending.latents, frames, times.step_s, decode_s,
            wait_s=times.wait_s, busy_s=times.busy_s, sent_s=times.sent_s,
        )  # fmt: skip
