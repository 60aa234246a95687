"""The steps of a job, or some layers of them, on the buffers and graphs of a `StepRunner`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from liveavatar.config import ModelConfig
from liveavatar.engine.denoiser import Conditioning, Denoiser, DenoiseSpec, mark
from liveavatar.engine.placement import RankWork, Span
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

    def known(self, spec: DenoiseSpec, spans: tuple[Span, ...], told: bool) -> StepRunner | None:
        """Those of a spec, if it was the last one; else they are freed."""
        if self._kept is None or self._kept[0] != self._key(spec, spans, told):
            self._kept = None
            return None
        return self._kept[1]

    def make(self, spec: DenoiseSpec, spans: tuple[Span, ...], sink: Sink, told: bool) -> StepRunner:
        """New ones for a spec, which are kept; `told`: whether its blocks have pose latents."""
        size = (spec.h, spec.w)
        runner = StepRunner(self.dit, spec.sigmas, size, sink, spans, _precision(spec), told)
        self._kept = (self._key(spec, spans, told), runner)
        return runner

    @property
    def current(self) -> StepRunner | None:
        """Those that are kept now."""
        return None if self._kept is None else self._kept[1]

    def forget(self) -> None:
        """Free them; the next job makes new ones."""
        self._kept = None

    def _key(self, spec: DenoiseSpec, spans: tuple[Span, ...], told: bool) -> tuple:
        return spec.h, spec.w, spec.sigmas, spans, _precision(spec), told


def _precision(spec: DenoiseSpec) -> str:
    kv_cache_dtype = spec.settings.kv_cache_dtype
    return "bf16" if kv_cache_dtype == "auto" else kv_cache_dtype


class FastDenoiser(Denoiser):
    """A stage of a job on the buffers of a `StepRunner`; a new one takes over from the one before."""

    @torch.inference_mode()
    def __init__(
        self, runners: Runners, config: ModelConfig, spec: DenoiseSpec, given: Conditioning, stage: RankWork
    ) -> None:
        dit = runners.dit
        self.dit, self.config, self.spec = dit, config, spec  # type: ignore[assignment]
        self.device, self.motion, self.pose = given.reference.device, given.motion, given.pose
        self.text_kv = dit.text_kv(dit.embed_text(given.text))
        spans = stage.spans(len(dit.layers))
        known = runners.known(spec, spans, self.told)
        self.sink = dit.prefill(given.reference, given.motion, self.text_kv, known.sink if known else None)
        self.runner = known or runners.make(spec, spans, self.sink, self.told)
        self.text_kv = self.runner.begin(self.text_kv)  # the first copy is freed
        self.caches = {span.step: ring for span, ring in zip(spans, self.runner.rings, strict=True)}
        self.hidden = self.runner.leaving
        self._placed = False
        self._noise = None
        if not self.runner.warmed:  # before the clock of the first block runs, and before a snapshot is restored
            self._warm()

    @torch.inference_mode()
    def _warm(self) -> None:
        cfg, spec, runner = self.config.dit, self.spec, self.runner
        dit = runner.dit
        shape = (1, cfg.audio_layers, cfg.audio_dim, cfg.audio_history_frames + BLOCK_FRAMES)
        audio = dit.encode_audio(torch.zeros(shape, dtype=dit.dtype, device=self.device))
        turns = (
            dit.block_rotation(0, spec.h, spec.w, self.device),
            dit.sink_rotation(0, 0, spec.h, spec.w, self.device),
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
        frame, spec, dit, runner = index * BLOCK_LATENTS, self.spec, self.dit, self.runner
        distance = reference_distance(self.config.dit.ref_distance, spec.settings.seed, index)
        turns = (
            dit.block_rotation(frame, spec.h, spec.w, self.device),
            dit.sink_rotation(frame, distance, spec.h, spec.w, self.device),
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
