"""Sound from a pipe as the sound source of a render: a recording that still grows.

A block is made as soon as its sound is known, `SpeechConfig.lookahead_seconds` after its end, and the video ends where
the recording does. Noise reduction and levelling, which need the whole recording, are left out.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from liveavatar.audio.encoders import encoder_kind
from liveavatar.audio.growing_track import GrowingTrack
from liveavatar.config import ModelConfig
from liveavatar.media.recording import Recording, RecordingEncoder
from liveavatar.render.sound import SNAPSHOT_BLOCKS
from liveavatar.timing import BLOCK_FRAMES

HEARD_BLOCKS = 32  # newest blocks that were heard and may not be finished: more than a group asks ahead


@dataclass(frozen=True, kw_only=True, slots=True)
class PipeSound:
    """The folder of a `Recording`, and the directory of the model, which may hold the speech encoder."""

    folder: Path
    model_dir: Path

    def open(self, config: ModelConfig) -> "GrowingSound":
        """Open the recording, which may be empty yet, and load the speech encoder.

        Raises:
            CheckpointError: the speech encoder is missing, damaged, or does not fit the model.
        """
        speech, recording = config.speech, Recording(self.folder)
        encoder = encoder_kind(speech).load(speech, self.model_dir)
        return GrowingSound(recording, GrowingTrack(recording, speech, encoder, config.dit.audio_history_frames))


class GrowingSound:
    """Features made block by block while a recording grows."""

    segment_frames = SNAPSHOT_BLOCKS * BLOCK_FRAMES // 2  # a viewer waits for whole segments

    def __init__(self, recording: Recording, track: GrowingTrack) -> None:
        self.recording, self.features = recording, track
        self.audio = RecordingEncoder(recording)
        self._heard_at: dict[int, float] = {}  # by block, monotonic seconds

    @property
    def num_frames(self) -> int | None:
        """Frames of the recording, once it has ended."""
        return self.features.num_frames

    def start(self, block: int) -> None:
        """Read the recording from `block` on."""
        self.features.start(block)

    def ready(self, block: int) -> bool | None:
        """Read on, and tell whether the sound of a block is known."""
        is_ready = self.features.ready(block)
        if is_ready:
            self._heard_at.setdefault(block, self.features.arrived_at)  # a group asks ahead, and then again
            self._heard_at.pop(block - HEARD_BLOCKS, None)
        return is_ready

    def delay_ms(self, block: int) -> float:
        """Return milliseconds since the last sample that a block needs arrived."""
        return 1000 * (time.monotonic() - self._heard_at[block])

    def final_audio(self, folder: Path) -> Path:
        """Write the whole recording as a WAV file."""
        return self.recording.write_wav(folder / "sound.wav")
