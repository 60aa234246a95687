"""Driving features of a recording that still grows, block by block; holds the features of a few blocks."""

import time

import torch
from torch import Tensor

from liveavatar.audio.encoders import SpeechEncoder
from liveavatar.config import SpeechConfig
from liveavatar.media.recording import Recording, RecordingReader
from liveavatar.timing import BLOCK_FRAMES, count_frames

ENDLESS = 2**40 // BLOCK_FRAMES * BLOCK_FRAMES  # frames of a track that has not ended
POLL_SECONDS = 0.01
WINDOW_BLOCKS = 4  # newest blocks whose features can be read again


class GrowingTrack:
    """Driving features of a recording, sliced like a tensor [L, C, T] over its newest blocks."""

    def __init__(self, recording: Recording, speech: SpeechConfig, encoder: SpeechEncoder, history_frames: int) -> None:
        """Open a recording.

        Args:
            recording: the growing sound.
            speech: names the encoder; gives the features' shape.
            encoder: from `EncoderKind.load`.
            history_frames: frames before a block that are read together with it.
        """
        self.recording, self.encoder = recording, encoder
        self.shape = (speech.num_states, speech.dim, ENDLESS)
        self.history_blocks = -(-history_frames // BLOCK_FRAMES)
        self.num_frames: int | None = None  # once the recording has ended
        self.arrived_at = time.monotonic()  # time at which the newest block was complete
        self.start(0)

    def start(self, block: int) -> None:
        """Restart reading so that `block` can be requested next."""
        first = max(0, block - self.history_blocks)
        self._stream = self.encoder.stream(first)
        self._reader = RecordingReader(self.recording, self._stream.num_samples)
        self._blocks: dict[int, Tensor] = {}
        self._next = first

    def ready(self, index: int) -> bool | None:
        """Check whether a block's features are known: False past the recording's end, None when they may still come."""
        while index >= self._next:
            if self.num_frames is not None:
                return False
            pcm = self._reader.read()
            self._store(self._stream.push(pcm))
            if self._reader.ended:
                self._store(self._stream.finish())
                self.num_frames = count_frames(self.recording.num_samples)
            elif not len(pcm):
                time.sleep(POLL_SECONDS)
                return None
        return True

    def __getitem__(self, frames: slice) -> Tensor:
        """Return features [L, C, b - a] of frames a:b of the newest blocks."""
        start, stop = frames.start, frames.stop
        first, last = start // BLOCK_FRAMES, (stop - 1) // BLOCK_FRAMES
        joined = torch.cat([self._blocks[index] for index in range(first, last + 1)], dim=2)
        return joined[:, :, start - first * BLOCK_FRAMES : stop - first * BLOCK_FRAMES]

    def _store(self, blocks: list[Tensor]) -> None:
        for features in blocks:
            self._blocks[self._next] = features
            self._blocks.pop(self._next - WINDOW_BLOCKS - self.history_blocks, None)
            self._next += 1
            self.arrived_at = time.monotonic()
