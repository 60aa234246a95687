"""Decoding of one stream of sound, piece by piece, on the clock of its time stamps.

Holes in the time stamps become silence, so that the sound after them stays in time; a clock that was set is no hole.
"""

import errno
import logging
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError

from liveavatar.errors import InputError
from liveavatar.timing import SAMPLE_RATE

log = logging.getLogger(__name__)

MAX_BAD_PACKETS = 0.02  # share of packets that may be undecodable
MAX_CHANNELS = 64  # of FFmpeg's resampler
MAX_HOLE = 600.0  # s; a longer jump is a clock that was set, not a hole
_MIN_JUMP = 0.01  # s between two packets that is more than rounding of their time stamps
_MIN_HOLE = 0.04  # s; a frame of cinema film
# AMR frame types that carry no speech: comfort noise and nothing, of pauses (discontinuous transmission, DTX)
_AMR_PAUSES = {"amrnb": (8, 9, 10, 11, 15), "amrwb": (9, 14, 15)}


class Pieces:
    """Decoded sound of a file at 16 kHz, on the clock of its time stamps.

    Args:
        source: file, for the messages.
        longest: s that the file announces; a jump past it is no hole. None where nothing is known.
    """

    def __init__(self, source: Path, longest: float | None) -> None:
        self._source = source
        self._limit = None if longest is None else longest + 1.0
        self._samples = 0  # at 16 kHz, so far
        self.end = 0  # position in the file behind the last packet of any stream
        self.num_bytes = 0  # of the stream's packets
        self.last = 0.0  # s; where the last packet of any stream ends
        self.filled = 0.0  # s of silence that fills holes
        self.joined = 0.0  # s that its time stamps jump where no silence was filled in

    def read(self, container: InputContainer, stream: AudioStream) -> Iterator[np.ndarray]:
        """Iterate over float32 [channels, samples].

        Raises:
            InputError: damaged, or in a form that cannot be converted.
        """
        resampler, layout = None, None
        start: float | None = None  # time stamp of the first sample
        position = 0.0  # s of sound and silence before a frame
        end = 0.0  # time stamp at which the frame before it ends
        for frame in self._frames(container, stream):
            if not frame.samples or not frame.sample_rate:
                continue
            time, seconds = frame.time, frame.samples / frame.sample_rate
            hole = 0.0
            if time is not None and start is not None and abs(time - end) > _MIN_JUMP:
                hole = time - start - position
                if self._is_clock_set(hole, position):
                    self.joined += max(0.0, hole)
                    start, hole = time - position, 0.0
                hole = hole if hole > _MIN_HOLE and time > end else 0.0
            if time is not None:
                start = time - position if start is None else start
                end = time
            end += seconds
            position += hole + seconds
            now = (frame.format.name, frame.layout.name, frame.sample_rate)
            if now != layout or hole:
                yield from self._converted(resampler, None)
                resampler, layout = self._resampler(frame), now
            if hole:
                yield from self._silence(frame.layout.nb_channels, position - seconds)
            frame.pts = None  # time is counted here
            yield from self._converted(resampler, frame)
        yield from self._converted(resampler, None)

    def _is_clock_set(self, hole: float, position: float) -> bool:
        """Tell whether a jump of the time stamps is no hole: back, very far, or past the announced end."""
        return hole < -_MIN_HOLE or hole > MAX_HOLE or (self._limit is not None and position + hole > self._limit)

    def _resampler(self, frame: av.AudioFrame) -> av.AudioResampler:
        if frame.layout.nb_channels > MAX_CHANNELS:
            raise InputError(f"{self._source}: it has {frame.layout.nb_channels} channels, more than {MAX_CHANNELS}; "
                             "give one with the speaker's channel alone")  # fmt: skip
        # Packed samples: PyAV reads planes beyond the seventh from memory that is not there, and crashes.
        return av.AudioResampler(format="flt", layout=frame.layout, rate=SAMPLE_RATE)

    def _converted(self, resampler: av.AudioResampler | None, frame: av.AudioFrame | None) -> Iterator[np.ndarray]:
        try:
            done = resampler.resample(frame) if resampler is not None else []
        except FFmpegError as e:
            raise InputError(f"{self._source}: its sound cannot be converted ({reason(e)}); export it as WAV") from e
        for out in done:
            part = np.ascontiguousarray(out.to_ndarray().reshape(-1, out.layout.nb_channels).T)
            self._samples += part.shape[1]
            yield part

    def _silence(self, channels: int, until: float) -> Iterator[np.ndarray]:
        """Iterate over silence up to a time, s; at most a second a piece, which keeps memory small."""
        count = max(0, round(until * SAMPLE_RATE) - self._samples)
        self._samples += count
        self.filled += count / SAMPLE_RATE
        for start in range(0, count, SAMPLE_RATE):
            yield np.zeros((channels, min(SAMPLE_RATE, count - start)), np.float32)

    def _frames(self, container: InputContainer, stream: AudioStream) -> Iterator[av.AudioFrame]:
        good, bad, pauses = 0, 0, 0
        try:
            for packet in container.demux():
                if packet.pos is not None:
                    self.end = max(self.end, packet.pos + packet.size)
                if packet.pts is not None:
                    self.last = max(self.last, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream.index != stream.index:
                    continue
                self.num_bytes += packet.size
                if _is_pause(packet, stream):
                    pauses += 1
                    yield _pause(packet, stream)
                    continue
                try:
                    frames = packet.decode()
                    good += 1
                except FFmpegError:
                    frames = []
                    bad += 1
                yield from (frame for frame in frames if isinstance(frame, av.AudioFrame))
        except FFmpegError as e:
            raise InputError(
                f"{self._source}: reading stopped ({reason(e)}), it is damaged; export or copy it again"
            ) from e
        if bad > max(1, MAX_BAD_PACKETS * good):
            raise InputError(f"{self._source}: {bad} of its {good + bad} packets are damaged; export or copy it again")
        if bad:
            log.warning("%s: %d of %d packets could not be decoded and were left out", self._source, bad, good + bad)
        if pauses:
            log.info(
                "%s: %.1f s of pauses were not transmitted (AMR with DTX); they are silence", self._source, pauses / 50
            )


def reason(error: Exception) -> str:
    """Return what an error of FFmpeg or the system says, in one line."""
    if getattr(error, "errno", None) == errno.EINVAL:  # FFmpeg's answer for a format that is not on the list
        return "no format of sound or video"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]


def _is_pause(packet: av.Packet, stream: AudioStream) -> bool:
    pauses = _AMR_PAUSES.get(stream.codec_context.name)
    return pauses is not None and packet.size > 0 and (bytes(packet)[0] >> 3 & 15) in pauses


def _pause(packet: av.Packet, stream: AudioStream) -> av.AudioFrame:
    """Make the 20 ms of silence that a packet of comfort noise stands for."""
    rate = stream.codec_context.sample_rate
    frame = av.AudioFrame.from_ndarray(np.zeros((1, rate // 50), np.float32), format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, packet.pts, packet.time_base
    return frame
