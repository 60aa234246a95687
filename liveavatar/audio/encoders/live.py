"""Driving features of sound that is still arriving, equal to those `features.whisper_features` gives for the whole.

A *block* is known 0.16 s after its end; only one window of sound is kept.
"""

import numpy as np
import torch
from torch import Tensor

from liveavatar.audio.encoders.whisper import SpeechEncoder, block_features, check_encoder, window_samples
from liveavatar.config import SpeechConfig
from liveavatar.timing import BLOCK_SAMPLES, count_blocks, count_frames


class LiveFeatures:
    """Features of sound that is still arriving: push PCM, get each block's features as soon as they can be known.

    A block is known 0.16 s after its end. Only one window of sound is kept.
    """

    def __init__(self, cfg: SpeechConfig, encoder: SpeechEncoder, first_block: int = 0) -> None:
        """Begin.

        Args:
            cfg: of the model.
            encoder: what it names.
            first_block: that is wanted; the sound pushed then begins at sample `heard`.
        """
        check_encoder(cfg, encoder)
        self._cfg = cfg
        self._encoder = encoder
        length, self._lookahead = window_samples(cfg)
        self._window = np.zeros(length, np.float32)  # the newest samples, silence before the first
        self._position = first_block  # blocks given out
        self._heard = max(0, (first_block + 1) * BLOCK_SAMPLES + self._lookahead - length)

    @property
    def heard(self) -> int:
        """Samples of the sound so far."""
        return self._heard

    @property
    def position(self) -> int:
        """Index of the next block."""
        return self._position

    def push(self, pcm: np.ndarray) -> list[Tensor]:
        """Hear more sound.

        Args:
            pcm: float32 mono 16 kHz, any number of samples.

        Returns:
            Features [L, C, 12] of every block that became known, in order.
        """
        blocks = []
        rest = np.asarray(pcm, np.float32)
        while len(rest):
            wanted = (self._position + 1) * BLOCK_SAMPLES + self._lookahead - self._heard
            self._hear(rest[:wanted])
            if len(rest) >= wanted:
                blocks.append(self._next())
            rest = rest[wanted:]
        return blocks

    def finish(self) -> list[Tensor]:
        """End of the sound: features of the remaining blocks, silence assumed after it."""
        total = count_blocks(count_frames(self._heard))
        blocks = []
        while self._position < total:
            end = (self._position + 1) * BLOCK_SAMPLES + self._lookahead
            blocks += self.push(np.zeros(end - self._heard, np.float32))
        return blocks

    def _hear(self, pcm: np.ndarray) -> None:
        self._heard += len(pcm)
        self._window = np.concatenate([self._window, pcm])[-len(self._window) :]

    def _next(self) -> Tensor:
        self._position += 1
        window = torch.from_numpy(self._window)[None].to(self._encoder.positional_embedding.device)
        return block_features(window, self._encoder, self._cfg)[0]
