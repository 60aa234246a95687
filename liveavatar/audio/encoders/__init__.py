"""Speech encoders: driving features at 25 fps, of whole tracks and of sound that still arrives.

Owns how sound becomes features. Does not know the transformer that reads them. An encoder is a module of this folder
with a function `load(speech, model_dir) -> SpeechEncoder`, and a line in `ENCODERS`; neither torch nor transformers is
imported before `load` is called.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from liveavatar.config import SpeechConfig
from liveavatar.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

TINY_WEIGHTS = 37_184_640  # Whisper tiny.en, decoder included: it also transcribes; loaded in fp32
XLSR_WEIGHTS = 315_500_000  # wav2vec2-large-xlsr-53; loaded in fp32


class FeatureStream(Protocol):
    """Features of sound that still arrives."""

    @property
    def num_samples(self) -> int:
        """Samples consumed so far: the index of the next sample to push."""
        ...

    def push(self, pcm: np.ndarray) -> "list[Tensor]":
        """Consume float32 mono 16 kHz samples; return features [L, C, 12] of every block that became complete."""
        ...

    def finish(self) -> "list[Tensor]":
        """End the sound and return the features of the remaining blocks."""
        ...


class SpeechEncoder(Protocol):
    """A loaded speech encoder."""

    def features(self, audio: np.ndarray) -> "Tensor":
        """Compute features [L, C, T] of a whole track (float32 mono 16 kHz) in the precision they are stored in."""
        ...

    def stream(self, first_block: int) -> FeatureStream:
        """Start features of sound that still arrives, at a block."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderKind:
    """Facts about one kind of speech encoder, known without loading it."""

    module: str  # has `load`
    in_model_dir: bool  # all weights lie in the model directory, not only corrections (`SpeechConfig.tuning`)
    on_gpu: bool  # computes on a GPU where there is one
    weight_bytes: int  # as loaded

    def load(self, speech: SpeechConfig, model_dir: Path | None = None) -> SpeechEncoder:
        """Load the encoder that `speech` names.

        Raises:
            InputError: the model directory is needed and missing.
            CheckpointError: the weights are missing, damaged or do not fit `speech`.
        """
        encoder: SpeechEncoder = importlib.import_module(self.module).load(speech, model_dir)
        return encoder


ENCODERS = {
    "whisper": EncoderKind(
        module="liveavatar.audio.encoders.whisper", in_model_dir=False, on_gpu=False, weight_bytes=4 * TINY_WEIGHTS
    ),
    "wav2vec2": EncoderKind(
        module="liveavatar.audio.encoders.wav2vec2", in_model_dir=True, on_gpu=True, weight_bytes=4 * XLSR_WEIGHTS
    ),
}


def encoder_kind(speech: SpeechConfig) -> EncoderKind:
    """Look up the kind of a model's speech encoder. Raises CheckpointError when it is unknown."""
    try:
        return ENCODERS[speech.kind]
    except KeyError:
        raise CheckpointError(
            f"config.json names the speech encoder kind {speech.kind!r}; known kinds are {', '.join(ENCODERS)}"
        ) from None
