"""The sound of a render: features for the engine, audio for the video, and when each block's sound is known.

A *sound source* names the sound in a few paths and numbers, so that it can be sent to another process; `open` gives the
*sound* that a render reads. `FileSound` is a recording that is complete, `liveavatar.render.pipe.PipeSound` one that
still grows.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from liveavatar.audio.feature_file import FeatureFile
from liveavatar.config import ModelConfig
from liveavatar.engine.job import Features
from liveavatar.media.recording import RecordingEncoder
from liveavatar.timing import BLOCK_FRAMES

SNAPSHOT_BLOCKS = 4  # blocks between snapshots: one video segment


class Sound(Protocol):
    """The sound of one job while it is rendered."""

    @property
    def features(self) -> Features:
        """Driving features of the engine."""

    @property
    def audio(self) -> Path | RecordingEncoder:
        """Audio of the video while it is made."""

    @property
    def segment_frames(self) -> int:
        """Frames of a segment of the video and its playlist; a snapshot lies on the border of two."""

    @property
    def num_frames(self) -> int | None:
        """Frames of the job; None while sound arrives from a pipe."""

    def start(self, block: int) -> None:
        """Prepare to be asked for `block` next."""

    def ready(self, block: int) -> bool | None:
        """Tell whether the sound of a block is known: False past the end, None (after a short wait) if it may come."""

    def delay_ms(self, block: int) -> float | None:
        """Return milliseconds since the sound of a block arrived; None for a complete recording."""

    def final_audio(self, folder: Path) -> Path | None:
        """Write the audio of the finished video below `folder`, if it is not `audio`."""


class SoundSource(Protocol):
    """Names the sound of a job."""

    def open(self, config: ModelConfig) -> Sound:
        """Open the sound for a model.

        Raises:
            InputError: the model cannot be driven by such sound.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSound:
    """A complete recording and its speech features."""

    features: Path
    audio: Path
    num_frames: int

    def open(self, config: ModelConfig) -> "CompleteSound":
        """Open the feature file."""
        return CompleteSound(FeatureFile(self.features), self.audio, self.num_frames)


class CompleteSound:
    """Features of a known length, all of them there from the start."""

    segment_frames = SNAPSHOT_BLOCKS * BLOCK_FRAMES

    def __init__(self, features: Features, audio: Path, num_frames: int) -> None:
        self.features, self.audio, self.num_frames = features, audio, num_frames

    def start(self, block: int) -> None:
        """Do nothing: every block can be read at any time."""

    def ready(self, block: int) -> bool:
        """Tell whether the job has such a block."""
        return block * BLOCK_FRAMES < self.num_frames

    def delay_ms(self, block: int) -> None:
        """Return None: no sound arrives."""

    def final_audio(self, folder: Path) -> None:
        """Return None: the video has its audio."""
