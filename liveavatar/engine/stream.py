"""The block loop: one job under way, for files and for sound that still arrives, on the CPU and a GPU.

A block is 3 latents, 12 frames. Nothing here grows with the length of a job, and everything but the clock is a
function of the job, so a stream restored from a snapshot continues bit for bit.

Shapes: C latent channels, h/w latent height and width, L hidden states.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from liveavatar.config import ModelConfig
from liveavatar.engine.clock import mark
from liveavatar.engine.decoder import DecodedBlock, Decoder, Decoding
from liveavatar.engine.denoiser import Conditioning, DenoiseSpec, below
from liveavatar.engine.job import Block, StreamJob
from liveavatar.engine.placement import Placement, Queued, Ready
from liveavatar.engine.threads import Threads, computing_with
from liveavatar.timing import BLOCK_FRAMES


@dataclass(slots=True)
class _Pending:
    """A block that is being denoised or decoded."""

    index: int
    queued: Queued
    latents: Tensor  # on the host; on a GPU valid once `copied` has passed
    copied: torch.cuda.Event | float
    decoding: Decoding | None = None
    snapshot: bool = False
    rings: dict[str, Tensor] | None = None  # copies, where the next block is denoised before this one is decoded


class Stream:
    """One job under way: iterate over `blocks()`, or call `next_block` until `position == num_blocks`."""

    placement: Placement
    decoder: Decoder

    def __init__(
        self, config: ModelConfig, job: StreamJob, spec: DenoiseSpec, threads: Threads, conditioning: Conditioning
    ) -> None:
        self.config, self.job, self.spec, self.threads = config, job, spec, threads
        self.reference, self.motion = conditioning.reference, conditioning.motion
        self.device, self.dtype = conditioning.reference.device, conditioning.text.dtype
        self.h, self.w, self.num_blocks = spec.h, spec.w, spec.num_blocks
        self.position = 0

    def begin(self, placement: Placement, decoder: Decoder) -> None:
        """Take the objects that denoise and decode the job."""
        self.placement, self.decoder = placement, decoder

    def blocks(
        self, decode: bool = True, snapshot_every: int = 0, ready: Ready | None = None
    ) -> Generator[Block, None, None]:
        """Make all remaining blocks in order.

        Where the decoder overlaps, a block is decoded while the next one is denoised, the first one excepted.

        Args:
            decode: make frames; decode all blocks of a stream or none.
            snapshot_every: blocks between two that carry a snapshot; 0 for none.
            ready: tells whether the sound of a block has arrived, for sound that still arrives; waits a little before
                it returns None. None: all sound is there.
        """
        ready = self.placement.hear(ready) if ready else lambda index: index < self.num_blocks
        self.placement.snapshots_every(snapshot_every)
        overlaps = decode and self.decoder.overlaps
        pending: _Pending | None = None
        try:
            while (is_ready := ready(self.position)) is not False:
                if is_ready:
                    started = self._start(snapshot_every, decode, overlaps)
                    if pending is not None:
                        yield self._finish(pending)
                    pending = started
                if pending is not None and self._is_due(pending, overlaps):
                    yield self._finish(pending)
                    pending = None
            if pending is not None:
                yield self._finish(pending)
        finally:
            self.decoder.settle()

    def next_block(self, decode: bool = True) -> Block:
        """Denoise the next block and, if asked, decode it; nothing overlaps."""
        pending = self._start(0, False, False)
        block = self._finish(pending)
        if not decode:
            return block
        return self._with_frames(block, self.decoder.run(block.latents[None], block.index))

    @torch.inference_mode()
    def decode(self, latents_1C3hw: Tensor, index: int) -> np.ndarray:
        """Decode block `index`, the next one, to frames uint8 [12, H, W, 3]; advances the decoder's state."""
        return self.decoder.run(latents_1C3hw, index).frames

    def close(self) -> None:
        """End the job; other ranks are free for another one."""
        self.placement.close()
        self.decoder.settle()

    def snapshot(self) -> dict[str, Tensor]:
        """Return everything needed to continue at `position`; sinks and conditioning are recomputed on open.

        The tensors are live: clone or write them before the next block.
        """
        return self._ring_tensors() | {f"decoder.{name}": t for name, t in self.decoder.state.tensors().items()}

    @torch.inference_mode()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continue where `snapshot` was taken; the job must be the same.

        Raises:
            InputError: keys and values of the snapshot are of another precision.
        """
        self.position = int(tensors["position"])
        self.decoder.state.load(below(tensors, "decoder."))
        first = tensors.get("first_latent")
        rings = {name: t for name, t in tensors.items() if name.startswith("cache")}
        with computing_with(self.threads.denoise(self.position)):  # a new reference, as it was first computed
            self.placement.load(self.position, rings, None if first is None else first.to(self.device))

    def block_features(self, index: int) -> Tensor:
        """Return the features [1, L, C, history + 12] of a block, on the CPU; zero before the track and after it."""
        total = self.job.features.shape[2]
        start, stop = index * BLOCK_FRAMES - self.config.dit.audio_history_frames, (index + 1) * BLOCK_FRAMES
        features = self.job.features[max(start, 0) : min(stop, total)]
        padded = F.pad(features, (max(0, -start), stop - max(start, 0) - features.shape[2]))
        return padded[None].to(self.dtype)

    @torch.inference_mode()
    def _start(self, snapshot_every: int, decode: bool, overlaps: bool) -> _Pending:
        """Denoise the next block and begin to decode it; on a GPU both may only be queued when this returns."""
        index, cuda = self.position, self.device.type == "cuda"
        with computing_with(self.threads.denoise(index)):
            queued = self.placement.queue(index)
        self.position += 1
        latents = torch.empty(queued.x.shape[1:], pin_memory=cuda)
        latents.copy_(queued.x[0].float(), non_blocking=cuda)
        pending = _Pending(index, queued, latents, mark(self.device))
        pending.snapshot = bool(snapshot_every) and self.position % snapshot_every == 0 and self.placement.has_state
        if pending.snapshot and overlaps and not cuda:  # rings on a GPU are too large to copy
            pending.rings = {name: t.clone() for name, t in self._ring_tensors().items()}
        if decode:
            pending.decoding = self.decoder.start(queued.x, index, with_state=pending.snapshot)
        return pending

    def _is_due(self, pending: _Pending, overlaps: bool) -> bool:
        """Return whether a block must be finished before the next one is begun, or is finished already."""
        needs_rings = pending.snapshot and pending.rings is None
        return not overlaps or pending.index == 0 or needs_rings or bool(pending.decoding and pending.decoding.done())

    def _finish(self, pending: _Pending) -> Block:
        """Wait for a block."""
        if isinstance(pending.copied, torch.cuda.Event):
            pending.copied.synchronize()
        decoded = pending.decoding.result() if pending.decoding else None
        times = pending.queued.times()
        state = None
        if pending.snapshot:
            decoder = decoded.state if decoded and decoded.state is not None else self.decoder.state.tensors()
            rings = self._ring_tensors() if pending.rings is None else pending.rings
            state = rings | {f"decoder.{name}": t for name, t in decoder.items()}
        block = Block(
            pending.index,
            pending.latents,
            None,
            times.step_s,
            wait_s=times.wait_s,
            busy_s=times.busy_s,
            sent_s=times.sent_s,
            memory=times.memory,
            state=state,
        )
        block = self._with_frames(block, decoded) if decoded else block
        self.placement.note(block)
        return block

    def _with_frames(self, block: Block, decoded: DecodedBlock) -> Block:
        frames = decoded.frames[: self.job.num_frames - block.index * BLOCK_FRAMES]
        return replace(block, frames=frames, decode_s=decoded.seconds)

    def _ring_tensors(self) -> dict[str, Tensor]:
        tensors = {"position": torch.tensor(self.position), **self.placement.tensors()}
        if self.placement.first_latent is not None:
            tensors["first_latent"] = self.placement.first_latent
        return tensors
