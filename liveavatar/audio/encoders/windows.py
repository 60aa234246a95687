"""Windows of sound that still arrives: for each block the newest sound up to a length, a little after its end included.

Owns when a block's sound is complete. Does not know the encoder that reads a window.

Shapes: L hidden states, C channels.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from liveavatar.config import SpeechConfig
from liveavatar.timing import BLOCK_SAMPLES, SAMPLE_RATE, count_blocks, count_frames

if TYPE_CHECKING:
    from torch import Tensor

WindowFeatures = Callable[[np.ndarray, int], "Tensor"]  # window float32 [samples], index of its block -> [L, C, 12]


def window_samples(cfg: SpeechConfig) -> tuple[int, int]:
    """Return the length of a window and of its part after the block's end, samples."""
    return round(cfg.window_seconds * SAMPLE_RATE), round(cfg.lookahead_seconds * SAMPLE_RATE)


class StreamedFeatures:
    """Driving features of sound that arrives in pieces.

    A block's features are returned as soon as its window is complete, `cfg.lookahead_seconds` after the block's end.
    They are a function of the window alone: one call of the encoder a block, whatever was said, and the same bits
    after a restart. Only one window of sound is stored.
    """

    def __init__(self, cfg: SpeechConfig, window_features: WindowFeatures, first_block: int = 0) -> None:
        """Start a stream.

        Args:
            cfg: the model's speech encoder settings.
            window_features: computes a block's features from its window, which is shorter than `cfg.window_seconds`
                where the sound begins.
            first_block: index of the first block returned; the first sample to push is then number `num_samples`.
        """
        self._window_features = window_features
        self._length, self._lookahead = window_samples(cfg)
        self._window = np.zeros(0, np.float32)  # the newest samples
        self._position = first_block  # blocks returned
        self._num_samples = max(0, (first_block + 1) * BLOCK_SAMPLES + self._lookahead - self._length)

    @property
    def num_samples(self) -> int:
        """Samples consumed so far, those before the first block included."""
        return self._num_samples

    @property
    def position(self) -> int:
        """Index of the next block."""
        return self._position

    def push(self, pcm: np.ndarray) -> "list[Tensor]":
        """Consume more sound.

        Args:
            pcm: float32 mono 16 kHz, any number of samples.

        Returns:
            Features [L, C, 12] of every block that became complete, in order.
        """
        blocks = []
        rest = np.asarray(pcm, np.float32)
        while len(rest):
            missing = (self._position + 1) * BLOCK_SAMPLES + self._lookahead - self._num_samples
            self._append(rest[:missing])
            if len(rest) >= missing:
                blocks.append(self._window_features(self._window, self._position))
                self._position += 1
            rest = rest[missing:]
        return blocks

    def finish(self) -> "list[Tensor]":
        """End the sound and return the features of the remaining blocks, with silence after it."""
        total = count_blocks(count_frames(self._num_samples))
        blocks = []
        while self._position < total:
            end = (self._position + 1) * BLOCK_SAMPLES + self._lookahead
            blocks += self.push(np.zeros(end - self._num_samples, np.float32))
        return blocks

    def _append(self, pcm: np.ndarray) -> None:
        self._num_samples += len(pcm)
        self._window = np.concatenate([self._window, pcm])[-self._length :]
