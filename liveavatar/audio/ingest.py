"""Audio ingest: decode any audio or video file to float32 mono 16 kHz, or refuse it in one line.

Decoding is streamed, so memory is the result's (230 MB an hour) and not the source's. Channels are averaged; when
they cancel each other the loudest one is used. The sound is not changed otherwise.
"""

import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError

from liveavatar.errors import InputError
from liveavatar.timing import FPS, SAMPLE_RATE

log = logging.getLogger(__name__)

MIN_SECONDS = 0.5
MAX_SECONDS = 3 * 3600
SILENCE_DBFS = -70.0  # peak below which a track counts as silent
MAX_BAD_PACKETS = 0.02  # share of packets that may be undecodable
MAX_MISSING = 0.05  # share of the declared duration that may be missing
# these containers estimate their duration from the bit rate, so that it says nothing about completeness
_GUESSING = {"mp3", "aac", "adts", "amr", "mpeg"}
_RIFF_UNKNOWN = 0x7FFF_0000  # bytes; sizes from here on are placeholders of writers that could not seek
_CANCELLED = 0.1  # power of the mix over that of the loudest channel
_OPEN_OPTIONS = {"protocol_whitelist": "file"}  # a playlist must not fetch anything


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioInfo:
    """Header of a file's sound."""

    path: Path
    container: str  # names of the container format, comma separated
    codec: str
    duration_s: float | None  # as declared; None when the file does not say
    sample_rate: int  # Hz
    channels: int
    has_video: bool


def probe(path: str | Path) -> AudioInfo:
    """Read the header of a file's sound without decoding it.

    Raises:
        InputError: missing, a directory, empty, not media, without sound, or declared longer than 3 hours.
    """
    source = Path(path)
    with _open(source) as container:
        stream = _audio_stream(container, source)
        duration = declared_seconds(container, stream, source)
        _refuse_long(source, duration or 0.0)
        return AudioInfo(
            path=source,
            container=container.format.name,
            codec=stream.codec_context.name,
            duration_s=duration,
            sample_rate=stream.codec_context.sample_rate,
            channels=stream.codec_context.channels,
            has_video=any(s.type == "video" for s in container.streams),
        )


def load_audio(path: str | Path, *, allow_silence: bool = False) -> np.ndarray:
    """Decode a file's sound.

    Args:
        path: any audio or video file.
        allow_silence: accept a track without any sound.

    Returns:
        float32 [samples], mono, 16 kHz, within [-1, 1].

    Raises:
        InputError: for the reasons of `probe`; and undecodable, cut off, shorter than 0.5 s, non-finite or silent.
    """
    source = Path(path)
    audio, mix_power, channel_power = _decode(source, None)
    if len(channel_power) > 1 and mix_power < _CANCELLED * channel_power.max():
        log.info("%s: the channels cancel each other, using the loudest", source)
        audio, _, _ = _decode(source, int(channel_power.argmax()))
    seconds = len(audio) / SAMPLE_RATE
    if seconds < MIN_SECONDS:
        raise InputError(f"{source}: its sound lasts {seconds:.2f} s; give at least {MIN_SECONDS} s")
    peak = float(max(audio.max(), -audio.min()))
    if peak < 10 ** (SILENCE_DBFS / 20) and not allow_silence:
        level = f"peak {20 * np.log10(peak):.0f} dBFS" if peak > 0 else "every sample is zero"
        raise InputError(f"{source}: it is silent ({level}); give a recording with speech louder than "
                         f"{SILENCE_DBFS:.0f} dBFS")  # fmt: skip
    if peak > 1.0:
        audio /= peak
    return audio


def stage_bytes(seconds: float, num_states: int = 5, dim: int = 768) -> int:
    """Estimate the bytes that the audio stages write for a track: 16-bit cleaned.wav and float16 features."""
    return int(seconds * (2 * SAMPLE_RATE + 2 * FPS * num_states * dim)) + 100_000


def _open(source: Path) -> InputContainer:
    if not source.exists():
        raise InputError(f"{source}: there is no such file; check the path given with --audio")
    if not source.is_file():
        raise InputError(
            f"{source}: it is {'a directory' if source.is_dir() else 'no regular file'}; give a sound file"
        )
    try:
        if source.stat().st_size == 0:
            raise InputError(f"{source}: the file is empty (0 bytes); export or copy it again")
        return av.open(str(source.resolve()), options=_OPEN_OPTIONS)
    except PermissionError as e:
        raise InputError(f"{source}: it may not be read; change its permissions") from e
    except (FFmpegError, ValueError, OSError) as e:
        raise InputError(
            f"{source}: it cannot be read as sound or video ({_reason(e)}); it may be another kind of file or cut off, "
            "give WAV, FLAC, MP3, M4A, OGG or a video"
        ) from e


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]


def _audio_stream(container: InputContainer, source: Path) -> AudioStream:
    stream = container.streams.best("audio")
    kinds = {s.type for s in container.streams}
    if stream is None and "audio" not in kinds:
        content = "pictures only" if kinds == {"video"} else ", ".join(sorted(kinds)) or "nothing"
        raise InputError(f"{source}: it has no sound (it holds {content}); give a file with an audio track")
    if not isinstance(stream, AudioStream) or not stream.codec_context or not stream.codec_context.sample_rate:
        raise InputError(f"{source}: its sound is in a format that cannot be decoded; convert it to WAV")
    return stream


def declared_seconds(container: InputContainer, stream: AudioStream, source: Path) -> float | None:
    """Read the length that the file declares, in seconds; None where it declares none."""
    if container.format.name == "wav" and (seconds := _riff_seconds(source)):
        return seconds  # libav believes the file's size, which hides a cut
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration and container.duration > 0 else None


def _riff_seconds(source: Path) -> float | None:
    """Read the duration in a WAV file's header, s; None when it is not set (streamed files hold 0 or the maximum)."""
    byte_rate, offset = 0, 12
    with source.open("rb") as f:
        if f.read(4) != b"RIFF":
            return None
        while True:
            f.seek(offset)
            header = f.read(8)
            if len(header) < 8:
                return None
            name, size = struct.unpack("<4sI", header)
            if name == b"fmt ":
                fields = f.read(12)
                byte_rate = struct.unpack("<8xI", fields)[0] if len(fields) == 12 else 0
            if name == b"data":
                return size / byte_rate if byte_rate and 0 < size < _RIFF_UNKNOWN else None
            offset += 8 + size + size % 2


def _refuse_long(source: Path, seconds: float) -> None:
    if seconds > MAX_SECONDS:
        raise InputError(
            f"{source}: it lasts {seconds / 3600:.1f} h, more than {MAX_SECONDS // 3600} h; split it, for instance "
            "with `ffmpeg -i IN -f segment -segment_time 3600 -c copy OUT%02d.wav`, and render the parts"
        )


def _decode(source: Path, channel: int | None) -> tuple[np.ndarray, float, np.ndarray]:
    """Decode one channel, or the mean of all: samples, their mean power, and every channel's mean power."""
    samples = bytearray()  # grows in place, so that memory never holds the track twice
    mix_power, channel_power = 0.0, np.zeros(1)
    with _open(source) as container:
        stream = _audio_stream(container, source)
        declared = declared_seconds(container, stream, source)
        _refuse_long(source, declared or 0.0)
        for part in _resampled(container, stream, source):
            if not np.isfinite(part).all():
                at = len(samples) / 4 / SAMPLE_RATE
                raise InputError(f"{source}: it has samples that are no numbers (near {at:.1f} s); export it again")
            mono = part.mean(0) if channel is None else part[min(channel, len(part) - 1)]
            samples += np.ascontiguousarray(mono, np.float32).tobytes()
            mix_power += float(np.square(mono, dtype=np.float64).sum())
            if len(channel_power) != len(part):
                channel_power = np.zeros(len(part))
            channel_power += np.square(part, dtype=np.float64).sum(1)
            _refuse_long(source, len(samples) / 4 / SAMPLE_RATE)
        guessing = _GUESSING & set(container.format.name.split(","))
    seconds = len(samples) / 4 / SAMPLE_RATE
    incomplete = declared is not None and seconds < declared * (1 - MAX_MISSING) - 0.1
    if incomplete and guessing:
        log.warning("%s: about %.1f s were announced, %.1f s are there", source, declared, seconds)
    elif incomplete:
        raise InputError(
            f"{source}: it is cut off, {seconds:.1f} s of {declared:.1f} s are there; copy it again, or keep what is "
            "left with `ffmpeg -i IN OUT.wav`"
        )
    if not samples:
        raise InputError(f"{source}: nothing in it could be decoded as sound; export or copy it again")
    return np.frombuffer(samples, np.float32), mix_power, channel_power


def _resampled(container: InputContainer, stream: AudioStream, source: Path) -> Iterator[np.ndarray]:
    """Iterate over decoded sound at 16 kHz: float32 [channels, samples] a piece."""
    resampler, layout = None, None
    for frame in _frames(container, stream, source):
        now = (frame.format.name, frame.layout.name, frame.sample_rate)
        if now != layout:
            if resampler is not None:
                yield from (f.to_ndarray() for f in resampler.resample(None))
            resampler = av.AudioResampler(format="fltp", layout=frame.layout, rate=SAMPLE_RATE)
            layout = now
        frame.pts = None  # gaps in the source's time stamps are no reason to fail
        assert resampler is not None
        yield from (f.to_ndarray() for f in resampler.resample(frame))
    if resampler is not None:
        yield from (f.to_ndarray() for f in resampler.resample(None))


def _frames(container: InputContainer, stream: AudioStream, source: Path) -> Iterator[av.AudioFrame]:
    good, bad = 0, 0
    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
                good += 1
            except FFmpegError:
                frames = []
                bad += 1
            yield from frames
    except FFmpegError as e:
        raise InputError(f"{source}: reading stopped ({_reason(e)}), it is damaged; export or copy it again") from e
    if bad > max(1, MAX_BAD_PACKETS * good):
        raise InputError(f"{source}: {bad} of its {good + bad} packets are damaged; export or copy it again")
    if bad:
        log.warning("%s: %d of %d packets could not be decoded and were left out", source, bad, good + bad)
