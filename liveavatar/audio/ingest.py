"""Audio ingest: decode any audio or video file to float32 mono 16 kHz, or refuse it in one line.

Decoding is streamed, so memory is the result's (230 MB an hour) and not the source's. Channels are averaged; when
they cancel each other the loudest one is used. Holes in the time stamps become silence, so that the sound after them
stays in time. A constant offset is removed. The sound is not changed otherwise.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError

from liveavatar.audio.header_sizes import HeaderSizes, is_endless_avi, wrong_sizes
from liveavatar.audio.headers import WavSound, ogg_cut, patched, read_wav
from liveavatar.audio.leftover import (
    announced_share,
    asf_seconds,
    first_end,
    is_encrypted,
    lacks_beginning,
    next_recording,
    unread,
    voc_cut,
)
from liveavatar.audio.pieces import MAX_HOLE, Pieces, reason
from liveavatar.errors import InputError
from liveavatar.files import exists
from liveavatar.media.display import JPEG_START
from liveavatar.media.playlist import refuse_playlist
from liveavatar.media.transport import transport_cut
from liveavatar.timing import FPS, SAMPLE_RATE

log = logging.getLogger(__name__)

MIN_SECONDS = 0.5
MAX_SECONDS = 3 * 3600
SILENCE_DBFS = -70.0  # peak below which a track counts as silent
_MIN_LOST = 0.1  # s; fewer bytes behind the sound are padding
_MIN_MISSING = 0.1  # s; less is rounding, and what coders add at the end
MAX_MISSING = 0.05  # share of the declared duration that may be missing
# these containers estimate their duration from the bit rate, so that it says nothing about completeness
_GUESSING = {"mp3", "aac", "adts", "amr", "mpeg"}
# these containers count their sound
_EXACT = {"wav", "w64", "aiff", "flac", "tta", "wv", "ape", "mov", "matroska"}
# these containers announce the length of the longest stream as that of each
_OF_ALL = {"avi", "asf"}
# these containers give each packet its own time; in others a hole is damage, and time is counted in samples
_CLOCKED = {"matroska", "mov", "ogg", "mpegts", "asf", "flv", "avi", "mpeg", "nut", "wtv", "mxf", "rm"}
_CUTS = (("ogg", ogg_cut), ("mpegts", transport_cut), ("voc", voc_cut))  # how they show that their end is missing
RATES = range(2_000, 1_000_001)  # Hz; others are damaged headers
_OFFSET = 0.02  # mean over full scale from which it is an offset and not the voice
_CANCELLED = 0.1  # power of the mix over that of the loudest channel
# Containers of sound and videos. Playlists (HLS, concat, DASH) are not among them: they open other files.
_FORMATS = (
    *("wav", "w64", "aiff", "au", "caf", "voc", "flac", "mp3", "aac", "ac3", "eac3", "loas", "ogg", "amr"),
    *("amrnb", "amrwb", "gsm", "wv", "tta", "ape", "mpc", "mpc8", "dts", "truehd", "mlp", "dsf", "sox", "ircam"),
    *("nistsphere", "rm", "mov", "mp4", "m4a", "3gp", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "asf", "mxf"),
    *("nut", "wtv", "dv"),
    # recognised, so that the error can say that they hold no sound
    *("gif", "png_pipe", "jpeg_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe"),
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
    with _open(source) as opened:
        container = opened.container
        stream = _audio_stream(container, source)
        duration = declared_seconds(opened, stream)
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Opened:
    """A recording that FFmpeg reads, and what is known of its header."""

    container: InputContainer
    wav: WavSound | None  # None for other kinds of file
    sizes: HeaderSizes | None  # that were put right; None where FFmpeg reads the file as it is
    seconds: float | None  # that an ASF file announces
    endless: bool  # it says nothing of its length, and FFmpeg guesses


@contextmanager
def _open(source: Path, start: int = 0) -> Iterator[_Opened]:
    """Open the recording that begins at a position of a file; one whose header is wrong through a mended view."""
    if not exists(source):
        raise InputError(f"{source}: there is no such file; check its path")
    if not source.is_file():
        raise InputError(
            f"{source}: it is {'a directory' if source.is_dir() else 'no regular file'}; give a sound file"
        )
    try:
        if source.stat().st_size == 0:
            raise InputError(f"{source}: the file is empty (0 bytes); export or copy it again")
        _refuse_by_start(source)
        refuse_playlist(source)
        wav, stop = read_wav(source, start), first_end(source, start)
        mended = wav is not None and wav.mended
        span = range(start, stop or source.stat().st_size)
        file: BinaryIO | str = str(source.resolve())
        if wav is not None and mended:
            file = wav.stream()
        elif start or stop:
            file = patched(source, span, {})
        try:
            container, sizes = _container(file, "wav" if mended else None), None
        except (FFmpegError, ValueError):
            sizes = wrong_sizes(source, start)
            if sizes is None or wav is not None:
                raise
            if sizes.lacking:
                raise InputError(f"{source}: it cannot be read as sound or video: {sizes.lacking} is not there, so it "
                                 "was cut off, or its writer was ended before it was done; copy it again, or export "
                                 "it as WAV or FLAC") from None  # fmt: skip
            container = _container(patched(source, span, sizes.right), None)
    except PermissionError as e:
        raise InputError(f"{source}: it may not be read; change its permissions") from e
    except (FFmpegError, ValueError, OSError) as e:
        raise InputError(
            f"{source}: it cannot be read as sound or video ({reason(e)}); it may be another kind of file or cut off, "
            "give WAV, FLAC, MP3, M4A, OGG or a video"
        ) from e
    with container:
        seconds, endless = asf_seconds(source, start), is_endless_avi(source, start)
        yield _Opened(container=container, wav=wav, sizes=sizes, seconds=seconds, endless=endless)


def _refuse_by_start(source: Path) -> None:
    """Refuse what FFmpeg would read as something else, by its first bytes."""
    with source.open("rb") as file:
        first = file.read(4)
    if first.startswith(JPEG_START):
        raise _no_sound(source, "pictures only")
    if first == b"RIFX":
        raise InputError(f"{source}: its samples have the most significant byte first (RIFX), which cannot be read; "
                         "export it again as WAV, AIFF or FLAC")  # fmt: skip


def _container(file: BinaryIO | str, kind: str | None) -> InputContainer:
    return av.open(file, "r", format=kind, options=dict(_OPEN_OPTIONS), metadata_errors="replace")  # any encoding


def _no_sound(source: Path, content: str) -> InputError:
    return InputError(f"{source}: it has no sound (it holds {content}); give a file with an audio track")


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


def declared_seconds(opened: _Opened, stream: AudioStream) -> float | None:
    """Read the length that the file declares, in seconds; None where it declares none."""
    container = opened.container
    if opened.endless:
        return None
    if container.format.name == "asf" and opened.seconds:
        return opened.seconds  # libav believes the file's size here, too
    if opened.wav is not None and opened.wav.seconds and container.format.name in ("wav", "w64"):
        return opened.wav.seconds  # libav believes the file's size, which hides a cut
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration and container.duration > 0 else None


def _refuse_long(source: Path, seconds: float) -> None:
    if seconds > MAX_SECONDS:
        raise InputError(
            f"{source}: it lasts {seconds / 3600:.1f} h, more than {MAX_SECONDS // 3600} h; split it, for instance "
            "with `ffmpeg -i IN -f segment -segment_time 3600 -c copy OUT%02d.wav`, and render the parts"
        )


@dataclass(kw_only=True, slots=True)
class _Track:
    """Sound that was read so far, of one channel or the mean of all."""

    samples: bytearray = field(default_factory=bytearray)  # grows in place, so that memory never holds the track twice
    mix_power: float = 0.0  # sum
    channel_power: np.ndarray = field(default_factory=lambda: np.zeros(1))  # sums
    recordings: int = 0
    notes: list[str] = field(default_factory=list)  # lines for the user

    @property
    def seconds(self) -> float:
        """Length so far."""
        return len(self.samples) / 4 / SAMPLE_RATE

    def add(self, part: np.ndarray, channel: int | None, source: Path) -> None:
        """Append a piece [channels, samples]."""
        if not np.isfinite(part).all():
            raise InputError(
                f"{source}: it has samples that are no numbers (near {self.seconds:.1f} s); export it again"
            )
        mono = part.mean(0) if channel is None else part[min(channel, len(part) - 1)]
        self.samples += np.ascontiguousarray(mono, np.float32).tobytes()
        self.mix_power += float(np.square(mono, dtype=np.float64).sum())
        if len(self.channel_power) != len(part):
            self.channel_power = np.zeros(len(part))
        self.channel_power += np.square(part, dtype=np.float64).sum(1)
        _refuse_long(source, self.seconds)


def _decode(source: Path, channel: int | None, on_progress: Callable[[], None]) -> tuple[np.ndarray, float, np.ndarray]:
    """Decode one channel, or the mean of all: samples, their mean power, and every channel's mean power."""
    track = _Track()
    following = _add_recording(source, 0, track, channel, on_progress)
    while following is not None:
        start = following
        try:
            following = _add_recording(source, start, track, channel, on_progress)
        except InputError as e:
            rest = source.stat().st_size - start
            track.notes.append(f"{rest} bytes behind its first {track.seconds:.1f} s are another recording that cannot "
                               f"be read and was left out ({str(e).removeprefix(f'{source}: ')})")  # fmt: skip
            break
    if not track.samples:
        raise InputError(f"{source}: nothing in it could be decoded as sound; export or copy it again")
    if track.recordings > 1:
        track.notes.append(
            f"{track.recordings} recordings are glued together in it; all {track.seconds:.1f} s were read"
        )
    if channel is None:
        for note in track.notes:
            log.warning("%s: %s", source, note)
    return np.frombuffer(track.samples, np.float32), track.mix_power, track.channel_power


def _add_recording(
    source: Path, start: int, track: _Track, channel: int | None, on_progress: Callable[[], None]
) -> int | None:
    """Append the recording that begins at a position of a file; return the position of one behind it."""
    before = track.seconds
    with _open(source, start) as opened:
        container, wav, sizes = opened.container, opened.wav, opened.sizes
        stream = _audio_stream(container, source)
        kinds = set(container.format.name.split(","))
        if "mov" in kinds and is_encrypted(source):
            raise InputError(f"{source}: its sound is encrypted (copy protection) and cannot be decoded; give a copy "
                             "without protection")  # fmt: skip
        share = 1.0 if sizes else announced_share(source, start)
        declared = declared_seconds(opened, stream)
        declared = None if declared is None else declared * share
        _refuse_long(source, declared or 0.0)
        pieces = Pieces(source, None if kinds & _GUESSING else declared)
        for part in pieces.read(container, stream):
            on_progress()
            track.add(part, channel, source)
        alone = len(container.streams) == 1
        guessed = _is_guess(source, declared, stream) if kinds & _GUESSING else False
        others = pieces.last if not stream.duration or kinds & _OF_ALL else 0.0  # s; the length is that of all streams
    track.recordings += 1
    notes, seconds = track.notes, track.seconds - before
    end = start + pieces.end
    stop, following, lost = first_end(source, start), None, 0
    if wav is None or not wav.linear:
        following = next_recording(source, start, stop or end)
        lost = 0 if following or sizes else unread(source, kinds, start, end)
    rate = (pieces.num_bytes if alone else pieces.end) / max(seconds, 1 / SAMPLE_RATE)
    if lost > _MIN_LOST * rate:
        notes.append(f"{lost} bytes behind its sound, about {lost / rate:.1f} s, were not read: the length in its "
                     "header is too small; export it again for the rest")  # fmt: skip
    elif stop or not following:
        filled = 0.0 if kinds & _CLOCKED else pieces.filled
        present = max(seconds - filled, others)
        if declared is not None and not guessed:
            declared = seconds * share if share > 1.0 else declared - pieces.joined
            notes += _missing(source, present, declared, kinds=kinds, exact=share > 1.0 or bool(kinds & _EXACT))
    notes += wav.notes if wav is not None else sizes.notes if sizes is not None else ()
    if pieces.filled:
        notes.append(f"{pieces.filled:.2f} s are missing inside it by its time stamps; they are silence, so that "
                     "the sound after them stays in time")  # fmt: skip
    if pieces.joined > MAX_HOLE:
        notes.append(f"its time stamps jump by {pieces.joined:.0f} s; the sound before and after was joined")
    if "ogg" in kinds and not start and lacks_beginning(source):
        notes.append("its beginning is not there: it was damaged, or recorded from a broadcast that had begun; what "
                     "follows was read")  # fmt: skip
    cut = next((found for kind, tell in _CUTS if kind in kinds and (found := tell(source))), None)
    if cut and following is None:
        notes.append(f"it is cut off ({cut}); {seconds:.1f} s are there and were read, copy it again for the rest")
    return following


def _is_guess(source: Path, declared: float | None, stream: AudioStream) -> bool:
    """Tell whether a length follows from the file's size: tags and changes of the bit rate make it too long."""
    bit_rate = stream.codec_context.bit_rate
    return bool(declared and bit_rate and declared * bit_rate / 8 < 1.02 * source.stat().st_size)


def _missing(source: Path, present: float, declared: float, *, kinds: set[str], exact: bool) -> list[str]:
    """Return the line of a file that announces more sound than it has; refuse one that lacks much of it.

    Args:
        source: file.
        present: seconds that are there.
        declared: seconds that were announced.
        kinds: names of its container.
        exact: the announcement is no estimate.
    """
    if present >= declared * (1 - MAX_MISSING) - 0.1:
        if not exact or present >= declared - _MIN_MISSING:
            return []
        return [f"its last {declared - present:.1f} s of {declared:.1f} s are not there and were not read: it was cut "
                "off; copy it again for the rest"]  # fmt: skip
    if kinds & _GUESSING:
        return [f"about {declared:.1f} s were announced, {present:.1f} s are there"]
    raise InputError(
        f"{source}: it is cut off, {present:.1f} s of {declared:.1f} s are there; copy it again, or keep what is "
        "left with `ffmpeg -i IN OUT.wav`"
    )
