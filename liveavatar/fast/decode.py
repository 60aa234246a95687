"""The decoder of one video size: its state and buffers at fixed addresses, a CUDA stream of its own, one graph."""

import logging
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from liveavatar.engine.clock import mark, seconds, side_stream
from liveavatar.engine.decoder import DecodedBlock, Decoding
from liveavatar.fast.gpu_graph import RecordedGraph
from liveavatar.model.stream_state import StreamState
from liveavatar.model.vae_compact import CompactVAE
from liveavatar.model.vae_wan import WanVAE
from liveavatar.timing import BLOCK_FRAMES, BLOCK_LATENTS

log = logging.getLogger(__name__)


class StreamDecoder(Protocol):
    """Decoder of one video at a time, as a `DecodeRunner` calls it; `liveavatar.fast.vae.FastDecoder` is one."""

    @property
    def vae(self) -> WanVAE | CompactVAE:
        """The autoencoder, which makes states."""
        ...

    @property
    def settling_frames(self) -> int:
        """Frames after which what `prime_stream` leaves out is forgotten."""
        ...

    def decode_stream(self, latents_1Chw: Tensor, state: StreamState) -> Tensor:
        """Decode the next latents [1, C, T, h, w] to frames [1, 3, T, H, W] in -1..1."""
        ...

    def prime_stream(self, latents_1Chw: Tensor, state: StreamState) -> None:
        """Update `state` as `decode_stream` does."""
        ...


class OwnDecoder:
    """A `StreamDecoder` of an autoencoder as it is, for one without a form of its own on the fast path."""

    settling_frames = 0

    def __init__(self, vae: CompactVAE) -> None:
        self.vae = vae

    def decode_stream(self, latents_1Chw: Tensor, state: StreamState) -> Tensor:
        """Decode the next latents [1, C, T, h, w] to frames [1, 3, T, H, W] in -1..1."""
        return self.vae.decode_stream(latents_1Chw, state)

    def prime_stream(self, latents_1Chw: Tensor, state: StreamState) -> None:
        """Update `state` as `decode_stream` does."""
        self.vae.prime_decoder(latents_1Chw, state)


class DecodeRunner:
    """Buffers, state and graph that decode block after block of one stream; `begin` reuses them for the next stream."""

    def __init__(self, decoder: StreamDecoder, size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        """Allocate for latents of `size` (height, width)."""
        self.decoder, self.device = decoder, device
        cuda, cfg = device.type == "cuda", decoder.vae.config
        self.state: StreamState = decoder.vae.decoder_state(1, *size)
        self.latents = torch.zeros(1, cfg.z_dim, BLOCK_LATENTS, *size, dtype=dtype, device=device)
        shape = (BLOCK_FRAMES, size[0] * cfg.spatial_stride, size[1] * cfg.spatial_stride, 3)
        self.frames = torch.zeros(shape, dtype=torch.uint8, device=device)
        # Two, because a block's frames may still be read while the next one's arrive.
        self.host = [torch.zeros(shape, dtype=torch.uint8, pin_memory=cuda) for _ in range(2)]
        self.stream = side_stream(device, "decode")
        # Recorded on its own stream: graphs recorded on one stream share the work space of its matrix products.
        self._recorded = RecordedGraph(self._decode, cuda, stream=self.stream)

    @torch.inference_mode()
    def begin(self, still_latents: Tensor) -> None:
        """Start a stream by decoding a few still latents.

        Raises:
            torch.OutOfMemoryError: there is no room for it, not even without a graph.
        """
        if self.stream is not None:
            torch.cuda.current_stream().wait_stream(self.stream)
        self._prime_in_room(still_latents)  # seven latents are two blocks, of which the second is recorded
        if self._recorded.enabled and self._recorded.graph is None:
            for _ in range(2):  # recorded now, not in the middle of the first stream
                self.run()
            self._prime_in_room(still_latents)

    @torch.inference_mode()
    def set_reference(self, picture: Tensor, latent: Tensor) -> None:
        """Set the portrait [1, 3, 1, H, W] and its latent [1, C, 1, h, w] of the next stream, before `begin`."""
        if self.stream is not None:
            torch.cuda.current_stream().wait_stream(self.stream)
        kept = self.state.constants
        self.decoder.vae.set_reference(picture, latent, self.state)
        for name, value in kept.items():  # the graph has recorded where they lie
            value.copy_(self.state.constants[name])
        self.state.constants = kept or self.state.constants

    def settle(self) -> None:
        """Wait until nothing is under way, so that the memory can be given away."""
        if self.stream is not None:
            self.stream.synchronize()

    def _prime_in_room(self, still_latents: Tensor) -> None:
        """Prime, without the graph where that leaves no room for it: its memory serves nothing else.

        Priming is more than all that comes after it needs beside the graph: what it used serves a stream's steps.
        """
        if self._primes(still_latents):
            return
        log.warning("the decoder's CUDA graph leaves too little memory to start a stream: it decodes without one")
        self._recorded.forget()
        self._prime(still_latents)

    def _primes(self, still_latents: Tensor) -> bool:
        """Prime, unless a graph has taken the room; what was computed until then is let go on return."""
        try:
            self._prime(still_latents)
        except torch.OutOfMemoryError:
            if self._recorded.graph is None:
                raise
            return False
        return True

    def _prime(self, still_latents: Tensor) -> None:
        """Decode still latents, a block at a time: in one piece they would need twice the memory.

        Their frames are not shown, so the layers at full size, most of the work, see only the last block.
        """
        self.state.position = 0
        for name, kept in self.state.tensors().items():
            if name != "position":
                kept.zero_()
        count = still_latents.shape[2]
        first = (count - 1) % BLOCK_LATENTS + 1
        *earlier, last = still_latents.split([first, *[BLOCK_LATENTS] * ((count - first) // BLOCK_LATENTS)], dim=2)
        settles = self.decoder.settling_frames <= BLOCK_FRAMES
        for latents in earlier:
            (self.decoder.prime_stream if settles else self.decoder.decode_stream)(latents, self.state)
        if not earlier:
            self.decoder.decode_stream(last, self.state)
            return
        self.latents.copy_(last)
        self.run()

    def _decode(self) -> None:
        video = self.decoder.decode_stream(self.latents, self.state)[0]
        self.frames.copy_(((video.float() + 1) * 127.5).round().clamp(0, 255).permute(1, 2, 3, 0))

    @torch.inference_mode()
    def run(self) -> None:
        """Decode `latents` into `frames` on the current stream."""
        position = self.state.position
        self._recorded()
        self.state.position = position + BLOCK_LATENTS

    @torch.inference_mode()
    def decode(self, x: Tensor) -> np.ndarray:
        """Decode latents [1, C, 3, h, w] of the next block on the current stream and return its frames."""
        self.latents.copy_(x)
        self.run()
        self.host[0].copy_(self.frames)  # pinned on a GPU; the copy has arrived when this returns
        return self.host[0].numpy().copy()


@dataclass(frozen=True, slots=True)
class _CudaDecoding:
    """A block on the decoder's CUDA stream."""

    started: torch.cuda.Event
    stopped: torch.cuda.Event
    frames: Tensor  # on the host, once `stopped` has passed
    state: StreamState | None  # if asked for; live

    def done(self) -> bool:
        """Return whether `result` would not wait."""
        return self.stopped.query()

    def result(self) -> DecodedBlock:
        """Wait for the frames."""
        (spent,) = seconds([self.started, self.stopped])
        return DecodedBlock(self.frames.numpy().copy(), spent, None if self.state is None else self.state.tensors())


class CudaDecoder:
    """Decodes blocks on the CUDA stream of a `DecodeRunner`, beside the kernels of the current stream."""

    overlaps = True

    def __init__(self, runner: DecodeRunner) -> None:
        self.runner, self.state = runner, runner.state

    @torch.inference_mode()
    def start(self, x: Tensor, index: int, with_state: bool = False) -> Decoding:
        """Queue the decoding of a block; the state returned with it is live."""
        runner, main = self.runner, torch.cuda.current_stream()
        main.wait_stream(runner.stream)  # the decoder has read the block before
        runner.latents.copy_(x)
        runner.stream.wait_stream(main)
        host = runner.host[index % 2]
        with torch.cuda.stream(runner.stream):
            started = mark(runner.device)
            runner.run()
            host.copy_(runner.frames, non_blocking=True)
            stopped = mark(runner.device)
        return _CudaDecoding(started, stopped, host, self.state if with_state else None)

    def run(self, x: Tensor, index: int) -> DecodedBlock:
        """Decode a block and wait for its frames."""
        return self.start(x, index).result()

    def settle(self) -> None:
        """Do nothing: what is queued ends by itself, and `DecodeRunner.begin` waits for it."""
