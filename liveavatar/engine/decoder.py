"""Decoding of a stream's blocks, which may overlap with their denoising.

`HostDecoder` decodes in the caller's thread or, on a CPU with threads to spare, in a thread of its own. The decoder
of the fast path on a GPU (`liveavatar.fast.decode`) queues its kernels on a CUDA stream of its own.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from liveavatar.engine.resumable import Resumable
from liveavatar.engine.threads import Threads, begin_with, computing_with


@dataclass(frozen=True, slots=True)
class DecodedBlock:
    """Frames of a block."""

    frames: np.ndarray  # uint8 RGB [12, H, W, 3]
    seconds: float  # that decoding took
    state: dict[str, Tensor] | None = None  # of the decoder after this block, if asked for


class Decoding(Protocol):
    """A block that is being decoded."""

    def done(self) -> bool:
        """Return whether `result` would not wait."""

    def result(self) -> DecodedBlock:
        """Wait for the frames; to be called once."""


class Decoder(Protocol):
    """Decodes the blocks of one stream in order."""

    overlaps: bool  # whether `start` returns before the block is decoded

    @property
    def state(self) -> Resumable:
        """Memory of the decoder, part of a snapshot."""

    def start(self, x: Tensor, index: int, with_state: bool = False) -> Decoding:
        """Begin to decode the latents [1, C, 3, h, w] of the next block; they may change once this returns."""

    def run(self, x: Tensor, index: int) -> DecodedBlock:
        """Decode the latents [1, C, 3, h, w] of the next block and wait for its frames."""

    def settle(self) -> None:
        """Wait for blocks that were started."""


class HostDecoder:
    """Decodes blocks with a function, in a thread of its own where `threads` has some for either part."""

    def __init__(self, decode: Callable[[Tensor], np.ndarray], state: Resumable, threads: Threads) -> None:
        """Decode with `decode`: latents [1, C, 3, h, w] of the next block to frames; it advances `state`."""
        self.decode, self.state, self.threads = decode, state, threads
        self.overlaps = threads.overlap
        self._worker: ThreadPoolExecutor | None = None

    def start(self, x: Tensor, index: int, with_state: bool = False) -> Decoding:
        """Begin to decode a block; without a thread of its own it is decoded when this returns."""
        if not self.overlaps:
            decoding: Future[DecodedBlock] = Future()
            decoding.set_result(self._decode(x, index, with_state))
            return decoding
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, initializer=begin_with, initargs=(self.threads.total,))
        return self._worker.submit(self._decode, x.clone(), index, with_state)

    def run(self, x: Tensor, index: int) -> DecodedBlock:
        """Decode a block in the caller's thread."""
        return self._decode(x, index, False)

    def settle(self) -> None:
        """Wait for blocks that were started, and end the thread."""
        if self._worker is not None:
            self._worker.shutdown()
            self._worker = None

    @torch.inference_mode()
    def _decode(self, x: Tensor, index: int, with_state: bool) -> DecodedBlock:
        if x.device.type == "cuda":
            torch.cuda.current_stream(x.device).synchronize()  # the clock is that of decoding alone
        started = time.perf_counter()
        with computing_with(self.threads.decode(index)):
            frames = self.decode(x)
        state = {name: t.clone() for name, t in self.state.tensors().items()} if with_state else None
        return DecodedBlock(frames, time.perf_counter() - started, state)
