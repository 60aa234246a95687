"""Some of the denoise steps of one job on one device: its sinks, a ring per step, its noise levels.

A denoiser with all steps is what one device runs; one with a few is a rank of a group. Both compute a step in
the same way from the same inputs, which is why every placement gives the same latents.
"""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from liveavatar.config import ModelConfig
from liveavatar.engine.sampling import clip_noise, euler_step, reference_distance
from liveavatar.engine.settings import RenderSettings
from liveavatar.errors import InputError
from liveavatar.model.audio_encoder import AudioTokens
from liveavatar.model.dit import CausalDiT, Conditions
from liveavatar.model.kv_cache import Sink, StepCache
from liveavatar.pose.blinks import eye_track
from liveavatar.pose.track import EYES, pose_latents
from liveavatar.timing import BLOCK_FRAMES, BLOCK_LATENTS, LATENT_FRAMES


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoiseSpec:
    """Settings and shapes that determine one stream's denoising (no conditioning tensors)."""

    settings: RenderSettings
    sigmas: tuple[float, ...]  # noise levels, one more than steps: the terminal 0 included
    num_blocks: int
    h: int  # latent height
    w: int  # latent width

    @property
    def clip_blocks(self) -> int:
        """Blocks per clip: how far one draw of noise reaches, and when the reference may change."""
        return self.settings.infer_frames // BLOCK_FRAMES

    @property
    def num_steps(self) -> int:
        """Denoise steps of a block."""
        return len(self.sigmas) - 1


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What a job's picture and prompt become once, in the dtype of the transformer."""

    text: Tensor  # rows of the text encoder [1, L, text_dim]
    reference: Tensor  # [1, C, 1, h, w]
    motion: Tensor  # [1, C, 19, h, w]
    pose: Tensor | None = None  # head and eyes [T, 6] of all latents, eyes NaN as seeded; None: all move by themselves


class Denoiser:
    """Steps `steps` of a job."""

    @torch.inference_mode()
    def __init__(
        self, dit: CausalDiT, config: ModelConfig, spec: DenoiseSpec, given: Conditioning, steps: Sequence[int]
    ) -> None:
        self.dit, self.config, self.spec = dit, config, spec
        self.device = given.reference.device
        self.motion = given.motion
        self.pose = given.pose
        self.text_kv = dit.text_kv(dit.embed_text(given.text))
        self.sink: Sink = dit.prefill(given.reference, given.motion, self.text_kv)
        window = config.dit.window_latents * (spec.h // 2) * (spec.w // 2)
        self.caches = {step: StepCache(self.sink, window) for step in steps}
        self.levels = {
            step: dit.noise_level(torch.full((1, 1), spec.sigmas[step], device=self.device)) for step in steps
        }
        self._noise: tuple[int, Tensor] | None = None
        self.hidden: tuple[Tensor, ...] = ()

    @torch.inference_mode()
    def reanchor(self, reference: Tensor, motion: Tensor | None = None) -> None:
        """Compute the sinks anew for another reference latent [1, C, 1, h, w] and, if given, motion latents."""
        self.sink = self.dit.prefill(reference, self.motion if motion is None else motion, self.text_kv)
        for cache in self.caches.values():
            cache.set_sink(self.sink)

    @torch.inference_mode()
    def noise(self, index: int) -> Tensor:
        """What a block starts from: [1, C, 3, h, w]."""
        spec = self.spec
        clip, block = divmod(index, spec.clip_blocks)
        if self._noise is None or self._noise[0] != clip:
            shape = (self.config.dit.in_dim, spec.settings.infer_frames // LATENT_FRAMES, spec.h, spec.w)
            noise = clip_noise(spec.settings.seed, clip, shape).to(self.dit.dtype)
            self._noise = (clip, on_device(noise, self.device))
        at = block * BLOCK_LATENTS
        return self._noise[1][None, :, at : at + BLOCK_LATENTS]

    @torch.inference_mode()
    def queue(
        self, index: int, x: Tensor, audio: AudioTokens, hidden: Sequence[Tensor] = ()
    ) -> tuple[Tensor, list[Any]]:
        """Begin to take a block through these steps; on a GPU its kernels are queued when this returns.

        Args:
            index: of the block.
            x: its latents [1, C, 3, h, w] after the steps before these.
            audio: its audio tokens.
            hidden: what the layers before made of it, where the first step is begun elsewhere.

        Returns:
            Its latents after these steps, good until the next block, and the marks before, between and after the
            steps. Where the last step is not ended here, `self.hidden` goes on elsewhere.
        """
        assert not hidden, "the plain transformer makes whole steps"
        dit, spec, frame = self.dit, self.spec, index * BLOCK_LATENTS
        cond = Conditions(self.text_kv, dit.audio_kv(audio), self._pose(frame))
        distance = reference_distance(self.config.dit.ref_distance, spec.settings.seed, index)
        rotation = dit.block_rotation(frame, spec.h, spec.w, self.device)
        sink_rotation = dit.sink_rotation(frame, distance, spec.h, spec.w, self.device)
        marks = [mark(self.device)]
        for step, cache in self.caches.items():
            dit.place_sink(cache, self.sink, sink_rotation)
            flow = dit.step(x, self.levels[step], cond, cache, frame, rotation)
            x = euler_step(x, flow, spec.sigmas[step], spec.sigmas[step + 1])
            marks.append(mark(self.device))
        return x, marks

    @property
    def told(self) -> bool:
        """Whether blocks have pose latents."""
        return self.pose is not None or self.config.lids_conditioned

    def _pose(self, frame: int) -> Tensor | None:
        config, spec, eyes = self.config, self.spec, None
        if not self.told:
            return None
        head = given = None
        if self.pose is not None:
            head, given = self.pose[frame : frame + BLOCK_LATENTS].split((3, EYES), -1)
        if config.lids_conditioned:
            track = torch.from_numpy(eye_track(spec.settings.seed, frame, BLOCK_LATENTS)).to(self.dit.dtype)
            eyes = on_device(track, self.device)
            eyes = eyes if given is None else torch.where(given.isnan(), eyes, given.to(eyes.dtype))
            eyes = eyes if config.gaze_conditioned else eyes[:, :1]
        return pose_latents(head, spec.h, spec.w, eyes, config.dit.cond_dim)[None]

    def tensors(self) -> dict[str, Tensor]:
        """The rings, for a snapshot; live until the next block."""
        return {f"cache{step}.{name}": t for step, cache in self.caches.items() for name, t in cache.tensors().items()}

    @torch.inference_mode()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take the rings of these steps from a snapshot.

        Raises:
            InputError: the rings of the snapshot are of another precision.
        """
        for step, cache in self.caches.items():
            own, given = cache.tensors(), below(tensors, f"cache{step}.")
            if {name: t.dtype for name, t in own.items()} != {name: t.dtype for name, t in given.items()}:
                raise InputError(
                    f"the snapshot holds keys and values in {_dtypes(given)}, and this job in {_dtypes(own)}; "
                    "drop --resume, or use the --kv_cache_dtype that the job began with"
                )
            cache.load(given)


def below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with a prefix, named without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _dtypes(ring: dict[str, Tensor]) -> str:
    found = dict.fromkeys(str(ring[name].dtype).removeprefix("torch.") for name in ("k", "v") if name in ring)
    return " and ".join(found) or "nothing"


def on_device(x: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device; to a GPU without waiting for what it has to do."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


@functools.cache
def side_stream(device: torch.device, use: str) -> Any:
    """The stream for a use, the same one as long as the process lives; None on a CPU.

    PyTorch has 32 streams and hands them out in turn, so one that is asked for anew would one day be somebody else's.
    """
    return torch.cuda.Stream(device) if device.type == "cuda" else None


def mark(device: torch.device) -> Any:
    """Now: an event on the current stream of a GPU, or the clock."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds(marks: list[Any]) -> tuple[float, ...]:
    """Seconds between marks, waiting for the last."""
    if isinstance(marks[0], float):
        return tuple(b - a for a, b in pairwise(marks))
    marks[-1].synchronize()
    return tuple(a.elapsed_time(b) / 1e3 for a, b in pairwise(marks))
