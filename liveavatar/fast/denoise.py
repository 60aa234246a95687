"""The steps of a job, or some layers of them, on the buffers and graphs of a `StepRunner`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from liveavatar.config import ModelConfig
from liveavatar.engine.denoiser import Conditioning, Course, Denoiser, mark
from liveavatar.engine.placement import Span, Stage
from liveavatar.engine.sampling import reference_distance
from liveavatar.fast.dit import FastDiT
from liveavatar.fast.runner import StepRunner
from liveavatar.model.audio_encoder import AudioTokens
from liveavatar.model.kv_cache import Sink
from liveavatar.timing import BLOCK_FRAMES, BLOCK_LATENTS


class Runners:
    """Buffers and graphs of the last size and stage; rings are large, so there is one set of them."""

    def __init__(self, dit: FastDiT) -> None:
        self.dit = dit
        self._kept: tuple[Any, StepRunner] | None = None

    def known(self, course: Course, spans: tuple[Span, ...], told: bool) -> StepRunner | None:
        """Those of a course, if it was the last one; else they are freed."""
        if self._kept is None or self._kept[0] != self._key(course, spans, told):
            self._kept = None
            return None
        return self._kept[1]

    def make(self, course: Course, spans: tuple[Span, ...], sink: Sink, told: bool) -> StepRunner:
        """New ones for a course, which are kept; `told`: whether its blocks have pose latents."""
        size = (course.h, course.w)
        runner = StepRunner(self.dit, course.sigmas, size, sink, spans, _precision(course), told)
        self._kept = (self._key(course, spans, told), runner)
        return runner

    @property
    def current(self) -> StepRunner | None:
        """Those that are kept now."""
        return None if self._kept is None else self._kept[1]

    def forget(self) -> None:
        """Free them; the next job makes new ones."""
        self._kept = None

    def _key(self, course: Course, spans: tuple[Span, ...], told: bool) -> tuple:
        return course.h, course.w, course.sigmas, spans, _precision(course), told


def _precision(course: Course) -> str:
    return "bf16" if course.kv_cache_dtype == "auto" else course.kv_cache_dtype


class FastDenoiser(Denoiser):
    """A stage of a job on the buffers of a `StepRunner`; a new one takes over from the one before."""

    @torch.inference_mode()
    def __init__(
        self, runners: Runners, config: ModelConfig, course: Course, given: Conditioning, stage: Stage
    ) -> None:
        dit = runners.dit
        self.dit, self.config, self.course = dit, config, course  # type: ignore[assignment]
        self.device, self.motion, self.pose = given.reference.device, given.motion, given.pose
        self.text_kv = dit.text_kv(dit.embed_text(given.text))
        spans = stage.spans(len(dit.layers))
        known = runners.known(course, spans, self.told)
        self.sink = dit.prefill(given.reference, given.motion, self.text_kv, known.sink if known else None)
        self.runner = known or runners.make(course, spans, self.sink, self.told)
        self.text_kv = self.runner.begin(self.text_kv)  # the first copy is freed
        self.caches = {span.step: ring for span, ring in zip(spans, self.runner.rings, strict=True)}
        self.hidden = self.runner.leaving
        self._placed = False
        self._noise = None
        if not self.runner.warmed:  # before the clock of the first block runs, and before a snapshot is restored
            self._warm()

    @torch.inference_mode()
    def _warm(self) -> None:
        cfg, course, runner = self.config.dit, self.course, self.runner
        dit = runner.dit
        shape = (1, cfg.audio_layers, cfg.audio_dim, cfg.audio_history_frames + BLOCK_FRAMES)
        audio = dit.encode_audio(torch.zeros(shape, dtype=dit.dtype, device=self.device))
        turns = (
            dit.block_rotation(0, course.h, course.w, self.device),
            dit.sink_rotation(0, 0, course.h, course.w, self.device),
        )
        runner.prepare(torch.zeros_like(runner.x), dit.audio_kv(audio), 0, turns, [])
        runner.place_all()
        runner.warm()

    @torch.inference_mode()
    def reanchor(self, reference: Tensor, motion: Tensor | None = None) -> None:
        """As `Denoiser.reanchor`."""
        fast: FastDiT = self.dit  # type: ignore[assignment]
        fast.prefill(reference, self.motion if motion is None else motion, self.text_kv, self.sink)
        self.runner.reanchor()
        self._placed = False

    @torch.inference_mode()
    def queue(
        self, index: int, x: Tensor, audio: AudioTokens, hidden: Sequence[Tensor] = ()
    ) -> tuple[Tensor, list[Any]]:
        """As `Denoiser.queue`."""
        frame, course, dit, runner = index * BLOCK_LATENTS, self.course, self.dit, self.runner
        distance = reference_distance(self.config.dit.ref_distance, course.seed, index)
        turns = (
            dit.block_rotation(frame, course.h, course.w, self.device),
            dit.sink_rotation(frame, distance, course.h, course.w, self.device),
        )
        runner.prepare(x, dit.audio_kv(audio), frame, turns, hidden, self._pose(frame))
        if not self._placed:
            runner.place_all()
            self._placed = True
        marks = [mark(self.device)]
        for at in range(len(runner.spans)):
            runner.run(at)
            marks.append(mark(self.device))
        return runner.x, marks
