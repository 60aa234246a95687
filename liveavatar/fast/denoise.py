"""The steps of a job, or some layers of them, on the buffers and graphs of a `StepRunner`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from liveavatar.config import ModelConfig
from liveavatar.engine.clock import mark
from liveavatar.engine.denoiser import BlockInputs, Conditioning, DenoiseSpec, Relay
from liveavatar.engine.placement import RankWork, Span
from liveavatar.fast.dit import FastDiT
from liveavatar.fast.runner import StepRunner
from liveavatar.model.audio_encoder import AudioTokens
from liveavatar.model.kv_ring import Sink
from liveavatar.timing import BLOCK_FRAMES, BLOCK_LATENTS


@dataclass(frozen=True, slots=True)
class RunnerKey:
    """Shapes and settings of which a change needs other buffers and graphs."""

    h: int
    w: int
    sigmas: tuple[float, ...]
    spans: tuple[Span, ...]
    kv_cache_dtype: str
    has_pose: bool
    rings_on_host: bool = False

    @classmethod
    def of(cls, spec: DenoiseSpec, spans: tuple[Span, ...], has_pose: bool) -> "RunnerKey":
        """Return the key of a stream's share on this rank."""
        kv_cache_dtype = spec.settings.kv_cache_dtype
        kv_cache_dtype = "bf16" if kv_cache_dtype == "auto" else kv_cache_dtype
        return cls(spec.h, spec.w, spec.sigmas, spans, kv_cache_dtype, has_pose, spec.rings_on_host)


class Runners:
    """The `StepRunner` of the last size and share, kept for the next job; rings are large: there is one set."""

    def __init__(self, dit: FastDiT) -> None:
        self.dit = dit
        self._last: tuple[RunnerKey, StepRunner] | None = None

    def kept(self, key: RunnerKey) -> StepRunner | None:
        """Return the runner if it has this key; otherwise free it and return None."""
        if self._last is None or self._last[0] != key:
            self._last = None
            return None
        return self._last[1]

    def make(self, key: RunnerKey, sink: Sink) -> StepRunner:
        """Make a runner and keep it."""
        runner = StepRunner(
            self.dit, key.sigmas, (key.h, key.w), sink, key.spans, key.kv_cache_dtype, key.has_pose, key.rings_on_host
        )
        self._last = (key, runner)
        return runner

    @property
    def current(self) -> StepRunner | None:
        """The runner that is kept."""
        return None if self._last is None else self._last[1]

    def forget(self) -> None:
        """Free the runner; the next job makes a new one."""
        self._last = None


class FastDenoiser:
    """A `Denoiser` of a rank's share on the buffers of a `StepRunner`; a new one takes them over."""

    @torch.inference_mode()
    def __init__(
        self,
        runners: Runners,
        config: ModelConfig,
        spec: DenoiseSpec,
        conditioning: Conditioning,
        work: RankWork,
        relay: Relay | None = None,
    ) -> None:
        dit, self._relay = runners.dit, relay
        self.dit, self.config, self.spec = dit, config, spec
        self.device, self.motion = conditioning.reference.device, conditioning.motion
        self.inputs = BlockInputs(config, spec, conditioning, dit.dtype)
        self.text_kv = dit.text_kv(dit.embed_text(conditioning.text), conditioning.text.shape[1])
        spans = work.spans(dit.num_layers)
        key = RunnerKey.of(spec, spans, self.inputs.has_pose)
        kept = runners.kept(key)
        into = kept.sink if kept else None
        self.sink = dit.prefill(conditioning.reference, conditioning.motion, self.text_kv, into, relay)
        self.runner = kept or runners.make(key, self.sink)
        self.text_kv = self.runner.begin(self.text_kv)  # the first copy is freed
        self.rings = {span.step: ring for span, ring in zip(spans, self.runner.rings, strict=True)}
        self.hidden = self.runner.leaving
        self._placed = False
        if not self.runner.warmed:  # before the clock of the first block runs, and before a snapshot is restored
            self._warm()

    @torch.inference_mode()
    def _warm(self) -> None:
        cfg, spec, runner = self.config.dit, self.spec, self.runner
        dit = runner.dit
        shape = (1, cfg.audio_layers, cfg.audio_dim, cfg.audio_history_frames + BLOCK_FRAMES)
        audio = dit.encode_audio(torch.zeros(shape, dtype=dit.dtype, device=self.device))
        rotations = (
            dit.block_rotation(0, spec.h, spec.w, self.device),
            dit.sink_rotation(0, 0, spec.h, spec.w, self.device),
        )
        runner.prepare(torch.zeros_like(runner.x), dit.audio_kv(audio), 0, rotations, [])
        runner.place_all()
        runner.warm()

    def noise(self, index: int) -> Tensor:
        """Return the noise [1, C, 3, h, w] that a block starts from."""
        return self.inputs.noise(index, self.device)

    @torch.inference_mode()
    def reanchor(self, reference: Tensor, motion: Tensor | None = None) -> None:
        """Compute the sinks anew for another reference latent [1, C, 1, h, w] and, unless None, motion latents."""
        moved = self.motion if motion is None else motion
        self.dit.prefill(reference, moved, self.text_kv, self.sink, self._relay)
        self.runner.reanchor()
        self._placed = False

    @torch.inference_mode()
    def queue(
        self,
        index: int,
        x: Tensor,
        audio: AudioTokens,
        hidden: Sequence[Tensor] = (),
        pose: Tensor | None = None,
        step: int | None = None,
    ) -> tuple[Tensor, list[Any]]:
        """Queue a block's steps."""
        frame, spec, dit, runner = index * BLOCK_LATENTS, self.spec, self.dit, self.runner
        distance = self.inputs.distance(index, 0)
        rotations = (
            dit.block_rotation(frame, spec.h, spec.w, self.device),
            dit.sink_rotation(frame, distance, spec.h, spec.w, self.device),
        )
        pose = self.inputs.pose(index, self.device) if pose is None else pose
        runner.prepare(x, dit.audio_kv(audio), frame, rotations, hidden, pose)
        if not self._placed:
            runner.place_all()
            self._placed = True
        marks = [mark(self.device)]
        for at, span in enumerate(runner.spans):
            if step in (None, span.step):
                runner.run(at)
                marks.append(mark(self.device))
        return runner.x, marks
