"""Jobs on the fast path: recorded steps, and a block decoded on a second CUDA stream while the next is denoised.

Shapes: C latent channels, h/w latent height and width, T frames, H/W pixels.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from liveavatar.cache import Sink
from liveavatar.checkpoint import LoadedModel
from liveavatar.config import ModelConfig
from liveavatar.denoiser import Conditioning, Course, Denoiser
from liveavatar.engine import Block, Engine, Stream, StreamJob
from liveavatar.errors import InputError
from liveavatar.fast.decode import DecodeRunner
from liveavatar.fast.dit import FastDiT
from liveavatar.fast.runner import StepRunner
from liveavatar.fast.vae import FastDecoder
from liveavatar.model.audio_encoder import AudioTokens
from liveavatar.model.vae_wan import WanVAE
from liveavatar.placement import Denoised, FeaturesOf, Single
from liveavatar.sampling import reference_distance
from liveavatar.timing import BLOCK_FRAMES, BLOCK_LATENTS

log = logging.getLogger(__name__)


class FastEngine(Engine):
    """An engine whose transformer is a `FastDiT`; buffers and graphs of a size are kept for the next job.

    Rings are large, so there is one set of them: a new stream takes over from the one before.
    """

    dit: FastDiT

    def __init__(self, model: LoadedModel, device: torch.device, fp8_rings: bool = False) -> None:
        super().__init__(model, device)
        assert isinstance(self.dit, FastDiT)
        self.fp8_rings = fp8_rings
        self.fast_decoder = FastDecoder(self.vae) if isinstance(self.vae, WanVAE) else None
        self._steps: tuple[tuple, StepRunner] | None = None
        self._decode: tuple[tuple, DecodeRunner] | None = None

    def place(self, course: Course, given: Conditioning, features: FeaturesOf) -> "FastSingle":
        """Who denoises a job: recorded steps in this process."""
        return FastSingle(self, course, given, features)

    def open(self, job: StreamJob) -> "FastStream":
        """As `Engine.open`."""
        return FastStream(self, job)

    def forget_sizes(self) -> None:
        """Free buffers and graphs; the next job makes new ones."""
        self._steps = self._decode = None

    def known_runner(self, course: Course) -> StepRunner | None:
        """Buffers and graphs for a course's video size, if it was the last one; else they are freed."""
        if self._steps is None or self._steps[0] != (course.h, course.w, course.sigmas):
            self._steps = None
            return None
        return self._steps[1]

    def new_runner(self, course: Course, sink: Sink) -> StepRunner:
        """Buffers and graphs for a course's video size."""
        runner = StepRunner(self.dit, course.sigmas, (course.h, course.w), sink, self.fp8_rings)
        self._steps = ((course.h, course.w, course.sigmas), runner)
        return runner

    def decode_runner(self, h: int, w: int) -> DecodeRunner | None:
        """The decoder for a video size; None for an autoencoder without a fast form."""
        if self.fast_decoder is None:
            return None
        if self._decode is None or self._decode[0] != (h, w):
            self._decode = ((h, w), DecodeRunner(self.fast_decoder, (h, w), self.dtype, self.device))
        return self._decode[1]


class FastDenoiser(Denoiser):
    """All steps of a job on the buffers of a `StepRunner`."""

    @torch.inference_mode()
    def __init__(self, engine: FastEngine, config: ModelConfig, course: Course, given: Conditioning) -> None:
        if given.pose is not None:
            raise InputError("--pose_video: the fast path of this model takes no head pose; drop it")
        self.dit, self.config, self.course = engine.dit, config, course  # type: ignore[assignment]
        self.device, self.motion, self.pose = given.reference.device, given.motion, None
        dit = engine.dit
        self.text_kv = dit.text_kv(dit.embed_text(given.text))
        known = engine.known_runner(course)
        self.sink = dit.prefill(given.reference, given.motion, self.text_kv, known.sink if known else None)
        self.runner = known or engine.new_runner(course, self.sink)
        self.runner.begin(self.text_kv)
        self.caches = dict(enumerate(self.runner.rings))
        self._placed = False
        self._noise = None

    @torch.inference_mode()
    def reanchor(self, reference: Tensor, motion: Tensor | None = None) -> None:
        """As `Denoiser.reanchor`."""
        fast: FastDiT = self.dit  # type: ignore[assignment]
        fast.prefill(reference, self.motion if motion is None else motion, self.text_kv, self.sink)
        self.runner.begin(self.text_kv)
        self._placed = False

    @torch.inference_mode()
    def queue(self, index: int, x: Tensor, audio: AudioTokens) -> list:
        """Start all steps of a block; gives the marks before, between and after them. The result is `runner.x`."""
        frame, course, dit, runner = index * BLOCK_LATENTS, self.course, self.dit, self.runner
        distance = reference_distance(self.config.dit.ref_distance, course.seed, index)
        turns = (
            dit.block_rotation(frame, course.h, course.w, self.device),
            dit.sink_rotation(frame, distance, course.h, course.w, self.device),
        )
        runner.prepare(x, dit.audio_kv(audio), frame, turns)
        if not self._placed:
            runner.place_all()
            self._placed = True
        marks = [mark(self.device)]
        for step in self.caches:
            runner.run(step)
            marks.append(mark(self.device))
        return marks

    @torch.inference_mode()
    def run(self, index: int, x: Tensor, audio: AudioTokens) -> tuple[Tensor, tuple[float, ...]]:
        """As `Denoiser.run`."""
        marks = self.queue(index, x, audio)
        return self.runner.x.clone(), seconds(marks)


class FastSingle(Single):
    """`Single` on a `FastDenoiser`."""

    denoiser: FastDenoiser

    def __init__(self, engine: FastEngine, course: Course, given: Conditioning, features: FeaturesOf) -> None:
        self.denoiser = FastDenoiser(engine, engine.config, course, given)
        self.features = features
        self.first_latent: Tensor | None = None
        runner = self.denoiser.runner
        if not runner.warmed:  # before the clock of the first block runs, and before a snapshot is restored
            self._warm(features(0))

    @torch.inference_mode()
    def _warm(self, features: Tensor) -> None:
        denoiser, runner = self.denoiser, self.denoiser.runner
        dit, course = denoiser.dit, denoiser.course
        turns = (
            dit.block_rotation(0, course.h, course.w, denoiser.device),
            dit.sink_rotation(0, 0, course.h, course.w, denoiser.device),
        )
        runner.prepare(torch.zeros_like(runner.x), dit.audio_kv(dit.encode_audio(features)), 0, turns)
        runner.place_all()
        runner.warm()

    @torch.inference_mode()
    def queue(self, index: int) -> list:
        """Start a block; gives the marks of its steps. The result is `denoiser.runner.x`."""
        denoiser = self.denoiser
        if denoiser.config.reanchor and index == denoiser.course.clip_blocks:
            assert self.first_latent is not None
            denoiser.reanchor(self.first_latent)
        audio = denoiser.dit.encode_audio(self.features(index))
        marks = denoiser.queue(index, denoiser.noise(index), audio)
        if index == 0:
            self.first_latent = denoiser.runner.x[:, :, :1].clone()
        return marks

    def run(self, index: int) -> Denoised:
        """See `Placement`."""
        marks = self.queue(index)
        return Denoised(self.denoiser.runner.x.clone(), seconds(marks))


@dataclass(slots=True)
class _Pending:
    """A block whose kernels are under way."""

    index: int
    latents: Tensor  # on the host, once `ready` has passed
    marks: list  # around the steps
    ready: Any
    frames: np.ndarray | Tensor  # on the host, once the decode's second mark has passed
    decode: tuple  # marks around the decode


class FastStream(Stream):
    """One job on the fast path; `next_block` and `blocks` give what `Stream`'s give."""

    engine: FastEngine
    placement: FastSingle

    @torch.inference_mode()
    def _begin_decoder(self) -> None:
        self.decoding = self.engine.decode_runner(self.h, self.w)
        if self.decoding is None:
            super()._begin_decoder()
            return
        self.decoder = self.decoding.state
        self.decoding.begin(self.motion[:, :, : self.engine.config.vae.prime_latents])

    @torch.inference_mode()
    def decode(self, latents_1C3hw: Tensor) -> np.ndarray:
        """As `Stream.decode`."""
        runner = self.decoding
        if runner is None:
            return super().decode(latents_1C3hw)
        runner.latents.copy_(latents_1C3hw)
        runner.run()
        return runner.frames.cpu().numpy().copy()

    @torch.inference_mode()
    def blocks(self, decode: bool = True, snapshot_every: int = 0) -> Iterator[Block]:
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
        marks = self.placement.queue(index)
        self.position += 1
        x = self.placement.denoiser.runner.x
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
        return _Pending(index, latents, marks, ready, host, (started, stopped))

    def _finish(self, pending: _Pending) -> Block:
        pending.ready.synchronize()
        left = self.job.num_frames - pending.index * BLOCK_FRAMES
        decode_s = seconds(list(pending.decode))[0]
        frames = np.array(pending.frames[:left])
        return Block(pending.index, pending.latents, frames, seconds(pending.marks), decode_s)


def mark(device: torch.device) -> Any:
    """Now: an event on the current stream of a GPU, or the clock."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds(marks: list) -> tuple[float, ...]:
    """Seconds between marks, waiting for the last."""
    if isinstance(marks[0], float):
        return tuple(b - a for a, b in pairwise(marks))
    marks[-1].synchronize()
    return tuple(a.elapsed_time(b) / 1e3 for a, b in pairwise(marks))
