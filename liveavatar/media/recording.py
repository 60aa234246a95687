"""Growing PCM recording, its reader, and its AAC encoder for HLS.

A *recording* is a folder with `sound.pcm` (16-bit mono 16 kHz), which grows, and `end`, which appears when it is
complete. Readers read only as far as they are asked to and hold a few seconds, so memory does not grow with length.
`liveavatar.audio.growing_track` makes driving features of a recording.
"""

import io
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from liveavatar.files import open_regular
from liveavatar.media.ffmpeg import AUDIO_BITRATE, OUTPUT_RATE
from liveavatar.media.pcm import SAMPLE_BYTES, samples
from liveavatar.timing import BLOCK_SAMPLES, SAMPLE_RATE

READ_BYTES = BLOCK_SAMPLES * SAMPLE_BYTES
CODER_SECONDS = Fraction(1, 10)  # lookahead of the AAC encoder and resampler


class Recording:
    """Folder of a recording, shared by its writer and its readers."""

    def __init__(self, folder: Path) -> None:
        self.pcm, self.end = folder / "sound.pcm", folder / "end"

    @property
    def num_samples(self) -> int:
        """Number of whole samples so far."""
        return self.pcm.stat().st_size // SAMPLE_BYTES

    def write_wav(self, path: Path) -> Path:
        """Write the sound so far as a WAV file."""
        with open_regular(self.pcm) as source, wave.open(str(path), "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(SAMPLE_BYTES)
            out.setframerate(SAMPLE_RATE)
            while piece := source.read(READ_BYTES):
                out.writeframesraw(piece[: len(piece) // SAMPLE_BYTES * SAMPLE_BYTES])
        return path


class RecordingReader:
    """Sequential reader of a growing recording."""

    def __init__(self, recording: Recording, first_sample: int = 0) -> None:
        self.recording = recording
        self._file = open_regular(recording.pcm)
        self._file.seek(first_sample * SAMPLE_BYTES)
        self._odd = b""
        self.ended = False

    def read(self) -> np.ndarray:
        """Read float32 samples, at most one block; none when nothing new has arrived. Sets `ended` at the end."""
        complete = self.recording.end.exists()  # checked first, so that all samples before the mark are read
        data = self._odd + self._file.read(READ_BYTES)
        whole = len(data) // SAMPLE_BYTES * SAMPLE_BYTES
        self._odd = data[whole:]
        self.ended = complete and not whole
        return samples(data)


class RecordingEncoder:
    """AAC encoder of a recording: packets for one time interval after another."""

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
        self._reader: RecordingReader | None = None
        self._packets: list[Any] = []
        self._num_samples = 0
        self._done = False

    def between(self, start: Fraction, stop: Fraction) -> list[Any]:
        """Encode as far as needed and return packets that start in [start, stop) seconds; call in order of time."""
        self._reader = self._reader or RecordingReader(self.recording)
        while not self._done and Fraction(self._num_samples, SAMPLE_RATE) < stop + CODER_SECONDS:
            pcm = self._reader.read()
            if len(pcm):
                self._encode(pcm)
            elif self._reader.ended:
                self._flush()
            else:
                break
        before = [p for p in self._packets if p.pts * p.time_base < stop]
        self._packets = self._packets[len(before) :]
        return [p for p in before if p.pts * p.time_base >= start]

    def _encode(self, pcm: np.ndarray) -> None:
        import av

        frame = av.AudioFrame.from_ndarray(pcm[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, self._num_samples, Fraction(1, SAMPLE_RATE)
        self._num_samples += len(pcm)
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
