"""The engine: load a model once, then stream jobs through the one block loop.

`Engine` owns the networks on one device. `Stream` owns one job: a placement that denoises its blocks, here or on
other ranks, and the decoder's state. `Stream.next_block` is the loop's body; a block is 3 latents, 12
frames. Nothing here grows with the length of a job, and everything but the clock is a function of the
job, so a stream restored from a snapshot goes on bit for bit.

Shapes: C latent channels, h/w latent height and width, L hidden states, T feature frames.
"""

import logging
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from liveavatar.checkpoints.directory import read_config
from liveavatar.checkpoints.load import LoadedModel, load_model
from liveavatar.engine.denoiser import Conditioning, Denoiser, DenoiseSpec, below
from liveavatar.engine.placement import FeaturesOf, Placement, RankWork, Single, split
from liveavatar.engine.sampling import sigma_steps
from liveavatar.engine.settings import RenderSettings
from liveavatar.engine.threads import Threads, begin_with, computing_with
from liveavatar.errors import InputError
from liveavatar.model.text import tokenize_batch
from liveavatar.model.vae import VideoVAE
from liveavatar.pose.track import conditioning_track, fit_eyes, fit_length, latent_track, split_track
from liveavatar.timing import BLOCK_FRAMES, count_blocks

log = logging.getLogger(__name__)


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
    """One video to make."""

    image: np.ndarray  # uint8 RGB [H, W, 3], already cropped to the output size
    settings: RenderSettings
    features: Features
    num_frames: int
    pose: np.ndarray | None = (
        None  # head, lids, gaze: a frame track [F, 3, 4 or 6] of any length, see `liveavatar.pose`
    )
    portrait_pose: np.ndarray | None = None  # of the image's head [3], radians; some models need it with `pose`


@dataclass(frozen=True, slots=True)
class Block:
    """One finished block."""

    index: int
    latents: Tensor  # [C, 3, h, w] fp32 on the CPU
    frames: np.ndarray | None  # uint8 RGB [<= 12, H, W, 3]; None when not decoded
    step_s: tuple[float, ...]  # seconds of each denoise step
    decode_s: float = 0.0
    wait_s: tuple[float, ...] = ()  # seconds each rank of a group waited for this block
    state: dict[str, Tensor] | None = (
        None  # snapshot after this block where one was asked for; use it before the next block
    )
    busy_s: tuple[float, ...] = ()  # seconds each rank of a group worked on it, decoding aside
    sent_s: tuple[float, ...] = ()  # seconds that handing on the block before took each rank


class Engine:
    """The networks of one model on one device."""

    def __init__(self, model: LoadedModel, device: torch.device) -> None:
        self.config, self.dit, self.vae, self.text = model.config, model.dit, model.vae, model.text
        self.device = device
        self.fp8 = False  # whether the linear layers of the transformer are in 8 bits
        self.shares_threads = device.type == "cpu"  # between denoising and decoding; see `Threads`
        self.model_dir: Path | None = None

    @classmethod
    def load(
        cls,
        model_dir: Path,
        device: str = "auto",
        dtype: str = "auto",
        *,
        fp8: bool = False,
        offload: bool = False,
    ) -> "Engine":
        """Load a model directory; the large model on a GPU takes the fast path.

        Args:
            model_dir: directory with config.json and weights.
            device: "cpu", "cuda", "cuda:1", or "auto": the first GPU when there is one.
            dtype: "float32", "bfloat16", or "auto": bfloat16 where the device computes it fast.
            fp8: linear layers of the transformer in 8 bits; GPUs only.
            offload: layers of the transformer stay in host memory, each arrives ahead of its use; GPUs only.

        Raises:
            CheckpointError: when the directory is incomplete or damaged.
            InputError: when there is no such device, or it cannot do what was asked.
            CapacityError: when the GPU cannot do what was asked.
        """
        chosen = pick_device(device)
        precision = pick_dtype(dtype, chosen)
        special = {"--fp8": fp8, "--offload_model True": offload}
        asked = [name for name, on in special.items() if on]
        if asked and chosen.type != "cuda":
            raise InputError(f"{' and '.join(asked)}: these need a GPU, and the device is {chosen}; drop them")
        log.info("loading %s on %s in %s", model_dir.name, chosen, precision)
        if chosen.type == "cuda" and cls is Engine and (asked or read_config(model_dir).fast_path):
            from liveavatar.fast.load import load_fast

            engine: Engine = load_fast(model_dir, chosen, precision, fp8=fp8, offload=offload)
        else:
            engine = cls(load_model(model_dir, chosen, precision), chosen)
        engine.model_dir = model_dir
        return engine

    @torch.inference_mode()
    def encode_prompt(self, prompt: str) -> Tensor:
        """Text encoder rows [1, L, text_dim] of a prompt."""
        if self.config.text.kind != "hash":
            if self.model_dir is None:
                raise InputError(
                    f"the text encoder of {self.config.name} lies in its model directory; load it from there"
                )
            from liveavatar.engine.prompt_embedding import prompt_rows

            return prompt_rows(self.model_dir, self.config.text, prompt, self.device)
        return self.text(tokenize_batch([prompt], self.config.text).to(self.device))

    @torch.inference_mode()
    def still_latents(self, image: np.ndarray) -> tuple[Tensor, Tensor]:
        """Reference [1, C, 1, h, w] and motion [1, C, 19, h, w] latents of a still picture."""
        return still_latents(self.vae, image_tensor(image).to(self.device, self.dtype), self.config.dit.motion_latents)

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in."""
        return next(self.vae.parameters()).dtype if self.dit is None else self.dit.dtype

    def place(self, spec: DenoiseSpec, given: Conditioning, features: FeaturesOf) -> Placement:
        """Who denoises a job: this process."""
        return Single(self.denoiser(spec, given, split(spec.num_steps, 1)[0]), features)

    def denoiser(self, spec: DenoiseSpec, given: Conditioning, stage: RankWork) -> Denoiser:
        """What a stage of a job is denoised with; conditioning lies on the device."""
        return Denoiser(self.dit, self.config, spec, given, stage.steps)

    def check_kv_dtype(self, kv_cache_dtype: str) -> None:
        """Refuse a precision of keys and values that this engine or its device does not have.

        Raises:
            InputError: it is for another model, or for GPUs.
            CapacityError: the GPU cannot do it.
        """
        if kv_cache_dtype != "auto":
            raise InputError(
                f"--kv_cache_dtype {kv_cache_dtype}: only the large model on a GPU has a choice, and this is "
                f"{self.config.name} on {self.device.type}; drop it"
            )

    def stages(self, num_steps: int) -> tuple[RankWork, ...]:
        """Which rank takes which steps of a job."""
        return split(num_steps, 1)

    def job(self) -> AbstractContextManager[None]:
        """To be held from the moment a job is known until it has ended, however it ends."""
        return nullcontext()

    def open(self, job: StreamJob) -> "Stream":
        """Prepare a stream: encode picture and prompt, compute the sinks, warm the decoder.

        Raises:
            InputError: when the job does not fit the model.
        """
        return Stream(self, job)


class Stream:
    """One job under way: iterate over `blocks()`, or call `next_block` until `position == num_blocks`."""

    @torch.inference_mode()
    def __init__(self, engine: Engine, job: StreamJob) -> None:
        cfg, settings = engine.config, job.settings
        if settings.infer_frames <= 0 or settings.infer_frames % BLOCK_FRAMES:
            raise InputError(
                f"--infer_frames {settings.infer_frames}: a clip is made of blocks of {BLOCK_FRAMES} frames; "
                f"use a multiple of {BLOCK_FRAMES}, such as 48"
            )
        engine.check_kv_dtype(settings.kv_cache_dtype)
        if settings.fp8 != engine.fp8:
            loaded, asked = ("8 bits" if fp8 else str(engine.dtype) for fp8 in (engine.fp8, settings.fp8))
            raise InputError(
                f"fp8={settings.fp8} in the settings of a job: this engine holds its linear layers in {loaded}, not in "
                f"{asked}; load it with fp8={settings.fp8}"
            )
        stride = cfg.vae.spatial_stride
        height, width, _ = job.image.shape
        self.engine, self.job = engine, job
        self.spec = DenoiseSpec(
            settings=settings,
            sigmas=sigma_steps(cfg, settings.sample_steps),
            num_blocks=count_blocks(job.num_frames),
            h=height // stride,
            w=width // stride,
        )
        self.threads = Threads(torch.get_num_threads(), engine.shares_threads)
        self.h, self.w, self.num_blocks = self.spec.h, self.spec.w, self.spec.num_blocks
        self.position = 0
        text = engine.encode_prompt(settings.prompt).to(engine.dtype)
        self.reference, self.motion = engine.still_latents(job.image)
        given = Conditioning(text, self.reference, self.motion, self._pose_track())
        self.placement: Placement = engine.place(self.spec, given, self._block_features)
        self._begin_decoder()

    def _begin_decoder(self) -> None:
        """An empty decoder stream, warmed by still latents so that the first block's frames have a past."""
        vae = self.engine.vae
        self.decoder = vae.decoder_state(1, self.h, self.w)
        vae.prime_decoder(self.motion[:, :, : vae.config.prime_latents], self.decoder)

    def _pose_track(self) -> Tensor | None:
        """The job's head pose and eyes [T, 6], one row for every latent of the stream; NaN: eyes as seeded."""
        if self.job.pose is None:
            return None
        head, eyes = split_track(self.job.pose)
        told, count = (
            conditioning_track(self.engine.config, head, self.job.portrait_pose),
            self.num_blocks * BLOCK_FRAMES,
        )
        rows = np.concatenate((fit_length(told, count), fit_eyes(eyes, count)), 1, dtype=np.float32)
        return latent_track(torch.from_numpy(rows)).to(self.engine.device)

    def blocks(self, decode: bool = True, snapshot_every: int = 0) -> Generator[Block, None, None]:
        """All remaining blocks in order.

        Args:
            decode: make frames; decode all blocks of a stream or none.
            snapshot_every: blocks between two that carry a snapshot; 0 for none.
        """
        return self.arriving(lambda index: index < self.num_blocks, snapshot_every, decode)

    def arriving(
        self, ready: Callable[[int], bool | None], snapshot_every: int = 0, decode: bool = True
    ) -> Generator[Block, None, None]:
        """Blocks of a job whose sound still arrives, each as soon as it is decoded.

        On a CPU with more than one core a block is decoded while the next one is denoised (`threads.Threads`).

        Args:
            ready: asked for the index of a block until its sound is known (True) or will never come (False); waits a
                little before it says that neither is so (None).
            snapshot_every: as in `blocks`.
            decode: as in `blocks`.
        """
        self.placement.snapshots_every(snapshot_every)
        overlap = decode and self.threads.overlap
        waiting: Future[Block] | None = None
        with ThreadPoolExecutor(1, initializer=begin_with, initargs=(self.threads.total,)) as decoder:
            while (known := ready(self.position)) is not False:
                if known and overlap and self.position:
                    block = self._denoised(snapshot_every)
                    if waiting is not None:
                        yield waiting.result()
                    waiting = decoder.submit(self._decoded, block)
                elif known:
                    yield self._whole(decode, snapshot_every)
                elif waiting is not None and waiting.done():
                    yield waiting.result()
                    waiting = None
            if waiting is not None:
                yield waiting.result()

    def _whole(self, decode: bool, snapshot_every: int) -> Block:
        """The next block, with a snapshot when one is due."""
        block = self.next_block(decode)
        return replace(block, state=self.snapshot()) if self._snapshot_due(snapshot_every) else block

    def _denoised(self, snapshot_every: int) -> Block:
        """The next block without frames; when a snapshot is due, with the rings of it, which `_decoded` completes."""
        block = self.next_block(decode=False)
        if not self._snapshot_due(snapshot_every):
            return block
        return replace(block, state={name: t.clone() for name, t in self._ring_tensors().items()})

    def _snapshot_due(self, every: int) -> bool:
        return bool(every) and self.position % every == 0 and self.placement.has_state

    def _decoded(self, block: Block) -> Block:
        started = time.perf_counter()
        frames = self.decode(block.latents[None], block.index)[: self.job.num_frames - block.index * BLOCK_FRAMES]
        state = block.state
        if state is not None:
            state |= {f"decoder.{name}": t.clone() for name, t in self.decoder.tensors().items()}
        return replace(block, frames=frames, decode_s=time.perf_counter() - started, state=state)

    @torch.inference_mode()
    def next_block(self, decode: bool = True) -> Block:
        """Denoise the next block and, if asked, decode it."""
        index = self.position
        with computing_with(self.threads.denoise(index)):
            made = self.placement.run(index)
        self.position += 1
        x, times = made.x[0].float().cpu(), made.times
        block = Block(index, x, None, times.step_s, wait_s=times.wait_s, busy_s=times.busy_s, sent_s=times.sent_s)
        return self._decoded(block) if decode else block

    def close(self) -> None:
        """No more blocks; other ranks are free for another job."""
        self.placement.close()

    @torch.inference_mode()
    def decode(self, latents_1C3hw: Tensor, index: int) -> np.ndarray:
        """Frames uint8 [12, H, W, 3] of block `index`, the next one to be decoded; advances the decoder's state."""
        latents = latents_1C3hw.to(self.engine.device, self.engine.dtype)
        with computing_with(self.threads.decode(index)):
            return frames_uint8(self.engine.vae.decode_stream(latents, self.decoder)[0])

    def snapshot(self) -> dict[str, Tensor]:
        """Everything needed to go on from `position`; sinks and conditions are recomputed on open.

        The tensors are live: clone or write them before the next block.
        """
        return self._ring_tensors() | {f"decoder.{name}": t for name, t in self.decoder.tensors().items()}

    def _ring_tensors(self) -> dict[str, Tensor]:
        tensors = {"position": torch.tensor(self.position), **self.placement.tensors()}
        if self.placement.first_latent is not None:
            tensors["first_latent"] = self.placement.first_latent
        return tensors

    @torch.inference_mode()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on where `snapshot` was taken; the job must be the same."""
        self.position = int(tensors["position"])
        self.decoder.load(below(tensors, "decoder."))
        first = tensors.get("first_latent")
        rings = {name: t for name, t in tensors.items() if name.startswith("cache")}
        with computing_with(self.threads.denoise(self.position)):  # a new reference, as it was first computed
            self.placement.load(self.position, rings, None if first is None else first.to(self.engine.device))

    def _block_features(self, index: int) -> Tensor:
        """Features [1, L, C, history + 12] of a block, on the CPU; zero before the track and after it."""
        total = self.job.features.shape[2]
        start, stop = index * BLOCK_FRAMES - self.engine.config.dit.audio_history_frames, (index + 1) * BLOCK_FRAMES
        features = self.job.features[max(start, 0) : min(stop, total)]
        padded = F.pad(features, (max(0, -start), stop - max(start, 0) - features.shape[2]))
        return padded[None].to(self.engine.dtype)


def image_tensor(image: np.ndarray) -> Tensor:
    """uint8 RGB [H, W, 3] -> [1, 3, 1, H, W] in -1..1."""
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1


def frames_uint8(video_CTHW: Tensor) -> np.ndarray:
    """Decoder output [3, T, H, W] in -1..1 -> uint8 RGB [T, H, W, 3]."""
    levels = (video_CTHW.float() + 1).mul_(127.5).round_().clamp_(0, 255)  # in place: three times as fast on a CPU
    return levels.byte().permute(1, 2, 3, 0).cpu().numpy()


def still_latents(vae: VideoVAE, image_13THW: Tensor, motion_latents: int) -> tuple[Tensor, Tensor]:
    """Reference and motion latents of a still picture [B, 3, 1, H, W].

    The motion is a still video; the reference is its first latent, which knows of no frame but the first ones.
    """
    still = vae.encode_still(image_13THW, motion_latents)
    return still[:, :, :1].contiguous(), still


def pick_device(device: str) -> torch.device:
    """The device of a name; "auto" is the first GPU, else the CPU.

    Raises:
        InputError: when it is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {device}: PyTorch sees no GPU here; use --device cpu, or install a CUDA build")
    return torch.device(device)


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype of a name; "auto" is bfloat16 on GPUs and on CPUs that compute it natively."""
    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    native = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if native else torch.float32
