"""Sound that is still being written to a file, for the two who need it before it ends: the model and the viewer.

A *recording* is a folder with `sound.pcm` (16-bit mono 16 kHz), which grows, and `end`, which appears when it will grow
no more. `LiveTrack` makes driving features of it, block by block; `LiveSound` codes it for the live playlist. Both read
only as far as they are asked to and keep a few seconds, so memory does not grow with length.
"""

import io
import time
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from liveavatar.audio.encoders.live import LiveFeatures
from liveavatar.audio.encoders.whisper import SpeechEncoder
from liveavatar.config import SpeechConfig
from liveavatar.media.ffmpeg import AUDIO_BITRATE, OUTPUT_RATE
from liveavatar.media.pcm import SAMPLE_BYTES, samples
from liveavatar.timing import BLOCK_FRAMES, BLOCK_SAMPLES, SAMPLE_RATE, count_frames

ENDLESS = 2**40 // BLOCK_FRAMES * BLOCK_FRAMES  # frames of a track that has not ended
POLL_SECONDS = 0.01
READ_BYTES = BLOCK_SAMPLES * SAMPLE_BYTES
CODER_SECONDS = Fraction(1, 10)  # that the coder wants to hear beyond what it gives
KEPT_BLOCKS = 4  # whose features the model may ask for again


class Recording:
    """The folder both sides share."""

    def __init__(self, folder: Path) -> None:
        self.pcm, self.end = folder / "sound.pcm", folder / "end"

    @property
    def num_samples(self) -> int:
        """Whole samples so far."""
        return self.pcm.stat().st_size // SAMPLE_BYTES

    def write_wav(self, path: Path) -> Path:
        """The sound as a WAV file."""
        with self.pcm.open("rb") as source, wave.open(str(path), "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(SAMPLE_BYTES)
            out.setframerate(SAMPLE_RATE)
            while piece := source.read(READ_BYTES):
                out.writeframesraw(piece[: len(piece) // SAMPLE_BYTES * SAMPLE_BYTES])
        return path


class _Reader:
    """Reads what is there and knows when nothing more will come."""

    def __init__(self, recording: Recording, first_sample: int = 0) -> None:
        self.recording = recording
        self._file = recording.pcm.open("rb")
        self._file.seek(first_sample * SAMPLE_BYTES)
        self._odd = b""
        self.ended = False

    def read(self) -> np.ndarray:
        """float32 samples, at most a block; none when nothing more is there by now."""
        complete = self.recording.end.exists()  # asked first: what is written before the mark is read
        data = self._odd + self._file.read(READ_BYTES)
        whole = len(data) // SAMPLE_BYTES * SAMPLE_BYTES
        self._odd = data[whole:]
        self.ended = complete and not whole
        return samples(data)


class LiveTrack:
    """Driving features of a recording, as `liveavatar.engine.engine.Features` wants them."""

    def __init__(self, recording: Recording, speech: SpeechConfig, encoder: SpeechEncoder, history_frames: int) -> None:
        self.recording, self.speech, self.encoder = recording, speech, encoder
        self.shape = (speech.num_states, speech.dim, ENDLESS)
        self.history_blocks = -(-history_frames // BLOCK_FRAMES)
        self.num_frames: int | None = None  # once the recording has ended
        self.heard_at = time.monotonic()  # when the newest block became known
        self.start(0)

    def start(self, block: int) -> None:
        """Be asked for `block` next."""
        first = max(0, block - self.history_blocks)
        self._live = LiveFeatures(self.speech, self.encoder, first)
        self._reader = _Reader(self.recording, self._live.heard)
        self._blocks: dict[int, Tensor] = {}
        self._next = first

    def ready(self, index: int) -> bool | None:
        """Whether a block's sound is known: False when the recording ended before it, None when it may still come."""
        while index >= self._next:
            if self.num_frames is not None:
                return False
            heard = self._reader.read()
            self._take(self._live.push(heard))
            if self._reader.ended:
                self._take(self._live.finish())
                self.num_frames = count_frames(self.recording.num_samples)
            elif not len(heard):
                time.sleep(POLL_SECONDS)
                return None
        return True

    def __getitem__(self, frames: slice) -> Tensor:
        """Features [L, C, b - a] of frames a:b among the newest blocks."""
        start, stop = frames.start, frames.stop
        first, last = start // BLOCK_FRAMES, (stop - 1) // BLOCK_FRAMES
        joined = torch.cat([self._blocks[index] for index in range(first, last + 1)], dim=2)
        return joined[:, :, start - first * BLOCK_FRAMES : stop - first * BLOCK_FRAMES]

    def _take(self, blocks: list[Tensor]) -> None:
        for features in blocks:
            self._blocks[self._next] = features
            self._blocks.pop(self._next - KEPT_BLOCKS - self.history_blocks, None)
            self._next += 1
            self.heard_at = time.monotonic()


class LiveSound:
    """AAC packets of a recording, as far as a stretch of film needs them."""

    def __init__(self, recording: Recording) -> None:
        import av

        self.recording = recording
        self._container = av.open(io.BytesIO(), "w", format="mp4", options={"movflags": "empty_moov+frag_custom"})
        self.stream: Any = self._container.add_stream(
            "aac", rate=OUTPUT_RATE, layout="mono", options={"flags": "+bitexact"}
        )
        self.stream.bit_rate = int(AUDIO_BITRATE.removesuffix("k")) * 1000
        self._container.start_encoding()
        self._resampler = av.AudioResampler(format="fltp", layout="mono", rate=OUTPUT_RATE)
        self._fifo = av.AudioFifo()
        self._reader: _Reader | None = None
        self._packets: list[Any] = []
        self._heard = 0
        self._done = False

    def between(self, start: Fraction, stop: Fraction) -> list[Any]:
        """Packets that begin in this stretch of time, seconds; stretches are asked for in order."""
        self._reader = self._reader or _Reader(self.recording)
        while not self._done and Fraction(self._heard, SAMPLE_RATE) < stop + CODER_SECONDS:
            heard = self._reader.read()
            if len(heard):
                self._code(heard)
            elif self._reader.ended:
                self._flush()
            else:
                break
        before = [p for p in self._packets if p.pts * p.time_base < stop]
        self._packets = self._packets[len(before) :]
        return [p for p in before if p.pts * p.time_base >= start]

    def _code(self, heard: np.ndarray) -> None:
        import av

        frame = av.AudioFrame.from_ndarray(heard[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, self._heard, Fraction(1, SAMPLE_RATE)
        self._heard += len(heard)
        self._fill(self._resampler.resample(frame), self.stream.codec_context.frame_size)

    def _fill(self, pieces: list[Any], size: int) -> None:
        for piece in pieces:
            self._fifo.write(piece)
        while (frame := self._fifo.read(size)) is not None:
            self._packets += self.stream.encode(frame)

    def _flush(self) -> None:
        self._fill(self._resampler.resample(None), self.stream.codec_context.frame_size)
        rest = self._fifo.read(0)
        if rest is not None:
            self._packets += self.stream.encode(rest)
        self._packets += self.stream.encode(None)
        self._done = True
