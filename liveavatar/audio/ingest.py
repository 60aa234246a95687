"""Audio ingest: decode any audio or video file to float32 mono 16 kHz, or refuse it in one line.

Decoding is streamed, so memory is the result's (230 MB an hour) and not the source's. Channels are averaged; when
they cancel each other the loudest one is used. Holes in the time stamps become silence, so that the sound after them
stays in time. A constant offset is removed. The sound is not changed otherwise.
"""

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError

from liveavatar.audio.headers import WavSound, ogg_cut, read_wav
from liveavatar.errors import InputError
from liveavatar.files import exists
from liveavatar.media.display import JPEG_START
from liveavatar.timing import FPS, SAMPLE_RATE

log = logging.getLogger(__name__)

MIN_SECONDS = 0.5
MAX_SECONDS = 3 * 3600
SILENCE_DBFS = -70.0  # peak below which a track counts as silent
MAX_BAD_PACKETS = 0.02  # share of packets that may be undecodable
MAX_MISSING = 0.05  # share of the declared duration that may be missing
# these containers estimate their duration from the bit rate, so that it says nothing about completeness
_GUESSING = {"mp3", "aac", "adts", "amr", "mpeg"}
# these containers give each packet its own time; in others a hole is damage, and time is counted in samples
_CLOCKED = {"matroska", "webm", "mov", "mp4", "m4a", "3gp", "ogg", "mpegts", "asf", "flv", "avi", "mpeg"}
_MIN_JUMP = 0.01  # s between two packets that is more than rounding of their time stamps
_MIN_HOLE = 0.04  # s; a frame of cinema film
_MAX_HOLE = 600.0  # s; a longer jump is a clock that was set, not a hole
RATES = range(2_000, 1_000_001)  # Hz; others are damaged headers
MAX_CHANNELS = 64  # of FFmpeg's resampler
_OFFSET = 0.02  # mean over full scale from which it is an offset and not the voice
# AMR frame types that carry no speech: comfort noise and nothing, of pauses (discontinuous transmission, DTX)
_AMR_PAUSES = {"amrnb": (8, 9, 10, 11, 15), "amrwb": (9, 14, 15)}
_CANCELLED = 0.1  # power of the mix over that of the loudest channel
# Containers of sound and videos. Playlists (HLS, concat, DASH) are not among them: they open other files.
_FORMATS = (
    *(
        "wav",
        "w64",
        "rf64",
        "aiff",
        "au",
        "caf",
        "voc",
        "flac",
        "mp3",
        "aac",
        "ac3",
        "eac3",
        "loas",
        "ogg",
        "amr",
        "amrnb",
    ),
    *("amrwb", "gsm", "wv", "tta", "ape", "mpc", "mpc8", "dts", "truehd", "mlp", "dsf", "sox", "ircam", "nist", "rm"),
    *("mov", "mp4", "m4a", "3gp", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "asf", "mxf", "nut", "wtv", "dv"),
    *(
        "gif",
        "png_pipe",
        "jpeg_pipe",
        "webp_pipe",
        "bmp_pipe",
        "tiff_pipe",
    ),  # recognised, so that the error can say that they hold no sound
)
_OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": ",".join(_FORMATS)}


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioInfo:
    """Header of a file's sound."""

    path: Path
    container: str  # names of the container format, comma separated
    codec: str
    duration_s: float | None  # as declared; None when the file does not say
    sample_rate: int  # Hz
    channels: int


def probe(path: str | Path) -> AudioInfo:
    """Read the header of a file's sound without decoding it.

    Raises:
        InputError: missing, a directory, empty, not media, without sound, or declared longer than 3 hours.
    """
    source = Path(path)
    with _open(source) as (container, wav):
        stream = _audio_stream(container, source)
        duration = declared_seconds(container, stream, wav)
        _refuse_long(source, duration or 0.0)
        return AudioInfo(
            path=source,
            container=container.format.name,
            codec=stream.codec_context.name,
            duration_s=duration,
            sample_rate=stream.codec_context.sample_rate,
            channels=stream.codec_context.channels,
        )


def sound_seconds(path: Path) -> float:
    """Read the length of a file's sound as declared, else by decoding it, in seconds.

    Raises:
        InputError: for the reasons of `probe` and `load_audio`.
    """
    declared = probe(path).duration_s
    return declared if declared is not None else len(load_audio(path)) / SAMPLE_RATE


def load_audio(
    path: str | Path, *, allow_silence: bool = False, on_progress: Callable[[], None] = lambda: None
) -> np.ndarray:
    """Decode a file's sound.

    Args:
        path: any audio or video file.
        allow_silence: accept a track without any sound.
        on_progress: called after every piece.

    Returns:
        float32 [samples], mono, 16 kHz, within [-1, 1].

    Raises:
        InputError: for the reasons of `probe`; and undecodable, cut off, shorter than 0.5 s, non-finite or silent.
    """
    source = Path(path)
    audio, mix_power, channel_power = _decode(source, None, on_progress)
    if len(channel_power) > 1 and mix_power < _CANCELLED * channel_power.max():
        log.info("%s: the channels cancel each other, using the loudest", source)
        audio, _, _ = _decode(source, int(channel_power.argmax()), on_progress)
    seconds = len(audio) / SAMPLE_RATE
    if seconds < MIN_SECONDS:
        raise InputError(f"{source}: its sound lasts {seconds:.2f} s; give at least {MIN_SECONDS} s")
    peak = float(max(audio.max(), -audio.min()))
    offset = float(audio.mean(dtype=np.float64))
    if abs(offset) > _OFFSET * max(1.0, peak):
        log.info("%s: a constant offset of %+.2f was removed", source, offset)
        audio = audio - np.float32(offset)
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


@contextmanager
def _open(source: Path) -> Iterator[tuple[InputContainer, WavSound | None]]:
    """Open a file, a WAV whose header is wrong through a mended view."""
    if not exists(source):
        raise InputError(f"{source}: there is no such file; check its path")
    if not source.is_file():
        raise InputError(
            f"{source}: it is {'a directory' if source.is_dir() else 'no regular file'}; give a sound file"
        )
    try:
        if source.stat().st_size == 0:
            raise InputError(f"{source}: the file is empty (0 bytes); export or copy it again")
        with source.open("rb") as start:
            if start.read(len(JPEG_START)) == JPEG_START:
                raise _no_sound(source, "pictures only")
        wav = read_wav(source)
        mended = wav is not None and wav.mended
        file = wav.stream() if wav is not None and mended else str(source.resolve())
        container = av.open(
            file, "r", format="wav" if mended else None, options=dict(_OPEN_OPTIONS), metadata_errors="replace"
        )  # tags may be in any encoding
    except PermissionError as e:
        raise InputError(f"{source}: it may not be read; change its permissions") from e
    except (FFmpegError, ValueError, OSError) as e:
        raise InputError(
            f"{source}: it cannot be read as sound or video ({_reason(e)}); it may be another kind of file or cut off, "
            "give WAV, FLAC, MP3, M4A, OGG or a video"
        ) from e
    with container:
        yield container, wav


def _no_sound(source: Path, content: str) -> InputError:
    return InputError(f"{source}: it has no sound (it holds {content}); give a file with an audio track")


def _reason(error: Exception) -> str:
    if getattr(error, "errno", None) == errno.EINVAL:  # FFmpeg's answer for a format that is not on the list
        return "no format of sound or video"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]


def _audio_stream(container: InputContainer, source: Path) -> AudioStream:
    stream = container.streams.best("audio")
    kinds = {s.type for s in container.streams}
    if stream is None and "audio" not in kinds:
        content = "pictures only" if kinds == {"video"} else ", ".join(sorted(kinds)) or "nothing"
        raise _no_sound(source, content)
    if not isinstance(stream, AudioStream) or not stream.codec_context or not stream.codec_context.sample_rate:
        raise InputError(f"{source}: its sound is in a format that cannot be decoded; convert it to WAV")
    rate = stream.codec_context.sample_rate
    if rate not in RATES:
        raise InputError(
            f"{source}: its header gives a sample rate of {rate} Hz; export it again, at 16000 to 48000 Hz"
        )
    return stream


def declared_seconds(container: InputContainer, stream: AudioStream, wav: WavSound | None) -> float | None:
    """Read the length that the file declares, in seconds; None where it declares none."""
    if wav is not None and wav.seconds and container.format.name == "wav":
        return wav.seconds  # libav believes the file's size, which hides a cut
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration and container.duration > 0 else None


def _refuse_long(source: Path, seconds: float) -> None:
    if seconds > MAX_SECONDS:
        raise InputError(
            f"{source}: it lasts {seconds / 3600:.1f} h, more than {MAX_SECONDS // 3600} h; split it, for instance "
            "with `ffmpeg -i IN -f segment -segment_time 3600 -c copy OUT%02d.wav`, and render the parts"
        )


def _decode(source: Path, channel: int | None, on_progress: Callable[[], None]) -> tuple[np.ndarray, float, np.ndarray]:
    """Decode one channel, or the mean of all: samples, their mean power, and every channel's mean power."""
    samples = bytearray()  # grows in place, so that memory never holds the track twice
    mix_power, channel_power = 0.0, np.zeros(1)
    with _open(source) as (container, wav):
        stream = _audio_stream(container, source)
        declared = declared_seconds(container, stream, wav)
        _refuse_long(source, declared or 0.0)
        kinds = set(container.format.name.split(","))
        pieces = _Pieces(source, kinds, declared)
        for part in pieces.read(container, stream):
            on_progress()
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
    seconds = len(samples) / 4 / SAMPLE_RATE
    present = seconds if kinds & _CLOCKED else seconds - pieces.filled
    declared = None if declared is None else declared - pieces.joined
    incomplete = declared is not None and present < declared * (1 - MAX_MISSING) - 0.1
    if incomplete and kinds & _GUESSING:
        log.warning("%s: about %.1f s were announced, %.1f s are there", source, declared, present)
    elif incomplete:
        raise InputError(
            f"{source}: it is cut off, {present:.1f} s of {declared:.1f} s are there; copy it again, or keep what is "
            "left with `ffmpeg -i IN OUT.wav`"
        )
    if not samples:
        raise InputError(f"{source}: nothing in it could be decoded as sound; export or copy it again")
    if channel is None:
        notes = list(wav.notes) if wav is not None else []
        if pieces.filled:
            notes.append(f"{pieces.filled:.2f} s are missing inside it by its time stamps; they are silence, so that "
                         "the sound after them stays in time")  # fmt: skip
        if pieces.joined > _MAX_HOLE:
            notes.append(f"its time stamps jump by {pieces.joined:.0f} s; the sound before and after was joined")
        if "ogg" in kinds and (cut := ogg_cut(source)):
            notes.append(f"it is cut off ({cut}); {seconds:.1f} s are there and were read, copy it again for the rest")
        for note in notes:
            log.warning("%s: %s", source, note)
    return np.frombuffer(samples, np.float32), mix_power, channel_power


class _Pieces:
    """Decoded sound of a file at 16 kHz, on the clock of its time stamps."""

    def __init__(self, source: Path, kinds: set[str], declared: float | None) -> None:
        self._source = source
        self._limit = None if declared is None or kinds & _GUESSING else declared + 1.0
        self._samples = 0  # at 16 kHz, so far
        self.filled = 0.0  # s of silence that fills holes
        self.joined = 0.0  # s that its time stamps jump where no silence was filled in

    def read(self, container: InputContainer, stream: AudioStream) -> Iterator[np.ndarray]:
        """Iterate over float32 [channels, samples]."""
        resampler, layout = None, None
        start: float | None = None  # time stamp of the first sample
        position = 0.0  # s of sound and silence before a frame
        end = 0.0  # time stamp at which the frame before it ends
        for frame in _frames(container, stream, self._source):
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
        return hole < -_MIN_HOLE or hole > _MAX_HOLE or (self._limit is not None and position + hole > self._limit)

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
            raise InputError(f"{self._source}: its sound cannot be converted ({_reason(e)}); export it as WAV") from e
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


def _frames(container: InputContainer, stream: AudioStream, source: Path) -> Iterator[av.AudioFrame]:
    good, bad, pauses = 0, 0, 0
    try:
        for packet in container.demux(stream):
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
            yield from frames
    except FFmpegError as e:
        raise InputError(f"{source}: reading stopped ({_reason(e)}), it is damaged; export or copy it again") from e
    if bad > max(1, MAX_BAD_PACKETS * good):
        raise InputError(f"{source}: {bad} of its {good + bad} packets are damaged; export or copy it again")
    if bad:
        log.warning("%s: %d of %d packets could not be decoded and were left out", source, bad, good + bad)
    if pauses:
        log.info("%s: %.1f s of pauses were not transmitted (AMR with DTX); they are silence", source, pauses / 50)


def _is_pause(packet: av.Packet, stream: AudioStream) -> bool:
    pauses = _AMR_PAUSES.get(stream.codec_context.name)
    return pauses is not None and packet.size > 0 and (bytes(packet)[0] >> 3 & 15) in pauses


def _pause(packet: av.Packet, stream: AudioStream) -> av.AudioFrame:
    """Make the 20 ms of silence that a packet of comfort noise stands for."""
    rate = stream.codec_context.sample_rate
    frame = av.AudioFrame.from_ndarray(np.zeros((1, rate // 50), np.float32), format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, packet.pts, packet.time_base
    return frame
