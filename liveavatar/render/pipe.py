"""Render a recording that still grows: the job of `liveavatar.render.job` for sound from a pipe.

A block is made as soon as its sound is known, 0.16 s after its end, and the film ends where the recording does. What
needs the whole sound (noise removal, levelling) is left out.
"""

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from liveavatar.audio.encoders.whisper import load_encoder
from liveavatar.engine.engine import Block, Features
from liveavatar.errors import InputError, Interrupted
from liveavatar.media.recording import ENDLESS, LiveSound, LiveTrack, Recording
from liveavatar.render.job import SNAPSHOT_BLOCKS, RenderRun
from liveavatar.timing import BLOCK_FRAMES, count_blocks


class PipeRun(RenderRun):
    """The state of one live job."""

    segment_frames = SNAPSHOT_BLOCKS * BLOCK_FRAMES // 2  # a viewer waits for whole segments

    def _features(self) -> tuple[Features, int]:
        speech = self.engine.config.speech
        if speech.kind != "whisper":
            raise InputError(
                f"--audio -: the speech encoder of {self.engine.config.name} hears a recording as a whole; "
                "give a file, or use a model with a Whisper encoder, such as mini"
            )
        self._heard_at: dict[int, float] = {}  # by block
        self.recording = Recording(self.job.audio)
        history = self.engine.config.dit.audio_history_frames
        self.track = LiveTrack(self.recording, speech, load_encoder(speech.name), history)
        return self.track, ENDLESS

    def _sound(self) -> LiveSound:
        return LiveSound(self.recording)

    def _whole_sound(self) -> Path:
        return self.recording.write_wav(self.job.work_dir / "sound.wav")

    def _restore(self) -> None:
        super()._restore()
        self.track.start(self.stream.position)

    def _blocks(self) -> Generator[Block, None, None]:
        with closing(self.stream.arriving(self._ready, SNAPSHOT_BLOCKS)) as blocks:
            for block in blocks:
                assert block.frames is not None
                left = BLOCK_FRAMES
                if self.track.num_frames is not None:
                    left = self.track.num_frames - block.index * BLOCK_FRAMES
                yield replace(block, frames=block.frames[:left])

    def _ready(self, index: int) -> bool | None:
        known = self.track.ready(index)
        if known is None and self.should_stop():
            raise Interrupted("stopped while waiting for sound")
        if known:
            self._heard_at[index] = self.track.heard_at
            self._heard_at.pop(index - 2 * SNAPSHOT_BLOCKS, None)
        return known

    def _total(self) -> int:
        frames = self.track.num_frames
        return self.stream.position + 1 if frames is None else count_blocks(frames)

    def _delay_ms(self, index: int) -> float:
        return 1000 * (time.monotonic() - self._heard_at[index])
