"""Video files: the ffmpeg binary, probing, decoding, and muxing the final mp4.

ffmpeg (from the `imageio-ffmpeg` wheel, run as a program) encodes and muxes; PyAV probes and decodes, so no
ffprobe is needed. A *fragmented* mp4 is one that can be played while it grows; the final mp4 is plain with its
index in front (faststart). Knows neither models nor blocks; `film` writes a video in segments.
"""

import importlib.resources
import logging
import os
import shutil
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from liveavatar.errors import CapacityError, InputError, LiveAvatarError
from liveavatar.files import disk_errors, disk_full, exists, replacing
from liveavatar.media.colour_profile import HDR
from liveavatar.media.cut import missing_bytes
from liveavatar.media.display import IDENTITY, JPEG_START, display_matrix, shown, square_size, turned_size
from liveavatar.media.playlist import refuse_playlist
from liveavatar.media.transport import transport_cut
from liveavatar.timing import FPS, SAMPLE_RATE

log = logging.getLogger(__name__)

OUTPUT_RATE = 48_000  # Hz, of the AAC track
AUDIO_BITRATE = "128k"
VIDEO_TIMESCALE = 12_800  # ticks a second; 512 a frame at 25 fps, exact at every whole fps that divides it
ATTEMPTS = 3  # an ffmpeg that is killed is started again
TERMINATED = 255  # its exit code after SIGTERM and Ctrl-C, which it catches
STDERR_TAIL = 400  # characters of ffmpeg's stderr quoted in an error
MAX_FPS = 1000
MAX_BACK = 0.5  # s, by which time stamps may run back inside a recording
MAX_VIDEO_PIXELS = 100_000_000  # of one picture
# Containers that may hold a video. Playlists (HLS, concat, DASH) and text are not among them: they open other files.
VIDEO_FORMATS = (
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "live_flv", "asf"),
    *("ogg", "mxf", "gif", "apng", "h264", "hevc", "m4v", "mpegvideo", "ivf", "yuv4mpegpipe", "dv", "wtv", "nut"),
    *("wav", "mp3", "flac", "aac"),  # sound: recognised, so that the error can say so
    *("png_pipe", "jpeg_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe", "gif_pipe"),  # a picture: recognised as well
)
STILL_BRANDS = ("avif", "heic", "heix", "heim", "heis", "mif1")  # pictures in a video's container
_OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": ",".join(VIDEO_FORMATS)}
SCALER = "bicubic+accurate_rnd+full_chroma_int+bitexact"  # same colours on every processor, no darkening bias


class MediaError(LiveAvatarError):
    """ffmpeg failed or wrote something that is no video; the message ends with its stderr."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    """Header of a video file; the size is that of `read_frames`: rotation and pixel aspect are applied."""

    width: int  # pixels
    height: int
    fps: float
    num_frames: int  # as counted by the container, 0 when unknown
    video_seconds: float
    audio_seconds: float | None  # None: no sound
    codec: str
    pixel_format: str


@cache
def ffmpeg_binary() -> str:
    """Locate ffmpeg: the one that `IMAGEIO_FFMPEG_EXE` names, that of the wheel `imageio-ffmpeg`, else one on `PATH`.

    It is not run to see whether it works: a trial that is killed would say that there is none.

    Raises:
        CapacityError: there is none for this platform, or what the variable names is no program.
    """
    named = os.environ.get("IMAGEIO_FFMPEG_EXE")
    if named and not shutil.which(named):
        raise CapacityError(f"IMAGEIO_FFMPEG_EXE={named} names no program; unset it, or name an ffmpeg")
    carried = [str(path) for path in _carried() if path.is_file() and os.access(path, os.X_OK)]
    found = named or next(iter(carried), None) or shutil.which("ffmpeg")
    if not found:
        raise CapacityError("imageio-ffmpeg has no ffmpeg for this platform; put one on PATH, see `liveavatar doctor`")
    return found


def _carried() -> list[Path]:
    """List the programs in the wheel `imageio-ffmpeg`."""
    try:
        return sorted(Path(str(importlib.resources.files("imageio_ffmpeg.binaries"))).glob("ffmpeg-*"))
    except ModuleNotFoundError:
        return []


def ffmpeg_failure(what: str, returncode: int, stderr: bytes) -> LiveAvatarError:
    """Build the error of an ffmpeg that ended with `returncode`: CapacityError on a full disk, else MediaError."""
    tail = " | ".join(stderr.decode("utf-8", "replace").strip().splitlines())[-STDERR_TAIL:]
    if "No space left on device" in tail or "Disk quota exceeded" in tail:
        return disk_full(what, tail, "run again with --resume")
    return MediaError(f"{what}: ffmpeg {_end(returncode)}: {tail or 'it said nothing'}; run again with --resume")


def was_killed(what: str, returncode: int, stderr: bytes) -> bool:
    """Tell if an ffmpeg did not fail but was killed or terminated by a signal; log it."""
    killed = returncode < 0 or (returncode == TERMINATED and not stderr.strip())
    if killed:
        log.warning("%s: ffmpeg %s", what, _end(returncode))
    return killed


def _end(returncode: int) -> str:
    if returncode < 0:
        return f"was killed by signal {-returncode}"
    return "was terminated" if returncode == TERMINATED else f"ended with code {returncode}"


def run_ffmpeg(node: Any, what: str, stdin: bytes | None = None) -> bytes:
    """Run an ffmpeg-python graph to its end and return what it wrote to a `pipe:` output.

    Args:
        node: the output node.
        what: the beginning of an error message.
        stdin: bytes for a `pipe:` input.

    Raises:
        CapacityError: disk full.
        MediaError: any other failure of ffmpeg. One that is killed is started again first.
    """
    command = node.global_args("-hide_banner", "-nostdin", "-loglevel", "error").overwrite_output()
    for _ in range(ATTEMPTS):
        process = subprocess.Popen(
            command.compile(cmd=ffmpeg_binary()),
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        stdout, stderr = process.communicate(stdin)
        if not process.returncode:
            return stdout
        if not was_killed(what, process.returncode, stderr):
            break
    raise ffmpeg_failure(what, process.returncode, stderr)


def probe_video(path: Path) -> VideoInfo:
    """Read a video file's header.

    Raises:
        InputError: when it is missing, no video, or damaged.
    """
    import av

    with _open(path) as container:
        stream = _video_stream(path, container)
        average = float(stream.average_rate or 0)  # of DV it is the clock's
        fps = average if 0 < average <= MAX_FPS else float(stream.guessed_rate or 0)
        if fps <= 0:
            raise InputError(f"{path} does not say how many frames a second it has; re-encode it as mp4")
        audio = container.streams.audio[0] if container.streams.audio else None
        _note(path, container.format.name, stream.codec_context.color_trc)
        whole = float(container.duration) / av.time_base if container.duration else 0.0
        seconds = _seconds(stream, whole)
        num_frames = stream.frames or round(seconds * fps)
        if num_frames <= 1 and container.format.name in ("gif", "apng"):
            raise _still(path)
        width, height = square_size(stream.codec_context.width, stream.codec_context.height, stream.sample_aspect_ratio)
        width, height = turned_size(width, height, _matrix(container, stream))
        return VideoInfo(
            width=width,
            height=height,
            fps=fps,
            num_frames=num_frames,
            video_seconds=seconds,
            audio_seconds=None if audio is None else _seconds(audio, whole),
            codec=stream.codec_context.name,
            pixel_format=stream.codec_context.pix_fmt or "",
        )


def _note(path: Path, container: str, transfer: int) -> None:
    """Say what a viewer of the video would notice and its header does not tell."""
    if container == "mpegts" and (cut := transport_cut(path)):
        log.warning("%s: it is cut off (%s); what is there is read, copy it again for the rest", path, cut)
    if transfer in HDR:
        log.warning("%s: its colours are HDR (%s) and are read as if they were not, too pale; export it as SDR (BT.709)"
                    " for right ones", path, HDR[transfer])  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One decoded picture."""

    index: int  # counted from 0
    seconds: float  # presentation time, from the first picture
    rgb: np.ndarray  # uint8 [H, W, 3]


def _matrix(container: Any, stream: Any) -> tuple[int, int, int, int]:
    """Read the display matrix off the first picture; a video without one, or a damaged one, is not turned."""
    import av

    try:
        first = next(container.decode(stream), None)
    except av.error.FFmpegError:
        return IDENTITY
    return IDENTITY if first is None else display_matrix(first)


def _pictures(container: Any, stream: Any) -> Iterator[Any]:
    """Decode a stream; an empty packet, which says that the picture before it stays, is passed over."""
    for packet in container.demux(stream):
        if packet.size or packet.dts is None:  # the last one, without a time, gets out what the decoder still holds
            yield from packet.decode()


def read_frames(path: Path, only: Collection[int] | None = None) -> Iterator[Frame]:
    """Decode a video file picture by picture, turned and with square pixels; memory holds one at a time.

    Args:
        path: of the file.
        only: indices of the frames that are wanted, None for all; nothing is decoded after the last of them.

    Raises:
        InputError: when the file is missing, no video, or breaks off inside a picture.
    """
    import av

    with _open(path) as container:
        stream = _video_stream(path, container)
        stream.codec_context.thread_count = 2
        aspect = stream.sample_aspect_ratio
        start: float | None = None
        last = 0.0  # s
        matrix = IDENTITY
        end = None if only is None else max(only, default=-1) + 1
        try:
            for index, picture in islice(enumerate(_pictures(container, stream)), end):
                seconds = float(picture.time if picture.time is not None else index / FPS)
                matrix = display_matrix(picture) if index == 0 else matrix
                start = seconds if start is None else start
                if seconds - start < last - MAX_BACK:  # another recording is glued to the first
                    start = seconds - last - 1 / FPS
                last = max(last, seconds - start)
                if only is None or index in only:
                    yield Frame(index=index, seconds=seconds - start, rgb=shown(picture, aspect, matrix))
        except av.error.FFmpegError as e:
            raise InputError(f"{path} breaks off or is damaged ({e}); copy or export it again") from e


def at_fps(frames: Iterator[Frame]) -> Iterator[Frame]:
    """Repeat or leave out frames so that they follow each other at 25 frames/s."""
    due, last = 0, None
    for frame in frames:
        while last is not None and (due + 0.5) / FPS <= frame.seconds:
            yield last
            due += 1
        last = frame
    if last is not None:
        yield last


def read_video(path: Path) -> tuple[VideoInfo, Iterator[np.ndarray]]:
    """Read a video file's header, and its frames (uint8 [H, W, 3]) lazily.

    Raises:
        InputError: at once for a missing or unreadable file, while iterating for a damaged picture.
    """
    return probe_video(path), (frame.rgb for frame in read_frames(path))


def read_video_audio(path: Path, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Decode a video's sound on the clock of its picture.

    Sample 0 is heard with the first picture: a track that starts late is padded in front, one that starts early
    is cut, so that offsets measured on the result are the offsets a viewer meets.

    Returns:
        float32 mono in [-1, 1].

    Raises:
        InputError: when there is no sound or it is damaged.
    """
    import av

    with _open(path) as container:
        if not container.streams.audio:
            raise InputError(f"{path} has no sound; its lips have nothing to be compared with")
        stream = container.streams.audio[0]
        _require_decoder(path, stream)
        video = container.streams.video[0] if container.streams.video else None
        origin = float(video.start_time * video.time_base) if video is not None and video.start_time else 0.0
        # The coder pads its last packet; players stop at the track's length.
        length = round(float(stream.duration * stream.time_base) * sample_rate) if stream.duration else None
        resampler = av.AudioResampler(format="flt", layout="mono", rate=sample_rate)
        pieces: list[np.ndarray] = []
        first: float | None = None
        try:
            for decoded in container.decode(stream):
                if first is None and decoded.time is not None:
                    first = float(decoded.time)
                pieces += [f.to_ndarray().reshape(-1) for f in resampler.resample(decoded)]
            pieces += [f.to_ndarray().reshape(-1) for f in resampler.resample(None)]
        except av.error.FFmpegError as e:
            raise InputError(f"the sound of {path} is damaged ({e}); copy or export it again") from e
    if not pieces:
        raise InputError(f"the sound track of {path} is empty; copy or export it again")
    audio = np.concatenate(pieces).astype(np.float32)[:length]
    shift = round(((first or 0.0) - origin) * sample_rate)
    return audio[-shift:] if shift < 0 else np.pad(audio, (shift, 0))


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a video file, such as its comment.

    Raises:
        InputError: it is no media file.
    """
    with _open(path) as container:
        return {str(name): str(value) for name, value in container.metadata.items()}


def audio_node(audio: Path | None, seconds: float, sample_rate: int = SAMPLE_RATE) -> Any:
    """Build an ffmpeg-python stream of a sound cut or padded to exactly `seconds`.

    Args:
        audio: a file, or None to read raw float32 mono of `sample_rate` from standard input.
        seconds: length of the result.
        sample_rate: Hz, of the raw input.
    """
    import ffmpeg

    source = ffmpeg.input(str(audio)) if audio else ffmpeg.input("pipe:", format="f32le", ar=sample_rate, ac=1)
    return (
        source.audio.filter("aresample", OUTPUT_RATE)
        .filter("apad")
        .filter("atrim", end_sample=round(seconds * OUTPUT_RATE))
    )


def mux(
    video: Path,
    audio: Path | np.ndarray | None,
    out: Path,
    num_frames: int,
    fps: int = FPS,
    comment: str | None = None,
) -> Path:
    """Mux coded pictures and a sound into the final mp4, atomically.

    The pictures are copied, the sound becomes AAC 48 kHz and is cut or padded to the pictures' length. The index
    is put in front (faststart) and nothing in the file depends on the time it was made.

    Args:
        video: fragmented mp4 with H.264.
        audio: sound file, float32 mono 16 kHz samples, or None for a silent video.
        out: final name; written under another name first.
        num_frames: pictures in `video`.
        fps: frames per second.
        comment: text for the file's metadata; None for none.

    Raises:
        CapacityError: disk full.
        MediaError: ffmpeg failed.
    """
    import ffmpeg

    streams = [ffmpeg.input(str(video)).video]
    options: dict[str, Any] = {"c:v": "copy", "video_track_timescale": VIDEO_TIMESCALE}
    if comment is not None:
        options["metadata"] = f"comment={comment}"
    stdin: bytes | None = None
    if audio is not None:
        streams.append(audio_node(None if isinstance(audio, np.ndarray) else audio, num_frames / fps))
        stdin = audio.astype("<f4").tobytes() if isinstance(audio, np.ndarray) else None
        options |= {"c:a": "aac", "b:a": AUDIO_BITRATE, "flags:a": "+bitexact"}
    with disk_errors(out), replacing(out) as temporary:
        node = ffmpeg.output(
            *streams, str(temporary), format="mp4", movflags="+faststart", fflags="+bitexact", map_metadata=-1,
            **options,
        )  # fmt: skip
        run_ffmpeg(node, f"writing {out}", stdin)
    return out


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    import av

    path = Path(path)
    if not (exists(path) and path.is_file()):
        raise InputError(f"{path} is not there; give the path of a video file")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); copy or export it again")
    with path.open("rb") as file:
        if file.read(len(JPEG_START)) == JPEG_START:
            raise _still(path)
    refuse_playlist(path)
    if lost := missing_bytes(path):
        raise InputError(
            f"{path} is cut off: {lost} of its {path.stat().st_size + lost} bytes are missing; copy it again"
        )
    try:
        # a path that is not absolute could be taken for a protocol ("concat:a.mp4"); tags need not be UTF-8
        container = av.open(str(path.resolve()), options=dict(_OPEN_OPTIONS), metadata_errors="replace")
    except (av.error.FFmpegError, ValueError, OSError) as e:
        raise InputError(f"{path} is no media file that can be read ({e}); give an mp4, mov, mkv or webm") from e
    with container:
        for stream in container.streams.video[:1]:
            _require_decoder(path, stream)
            width, height = stream.codec_context.width, stream.codec_context.height
            if width * height > MAX_VIDEO_PIXELS:
                raise InputError(f"{path}: its pictures of {width}x{height} px are too large; scale the video down")
        yield container


def _still(path: Path) -> InputError:
    return InputError(f"{path} is a still picture, not a video; give an mp4, mov, mkv or webm")


def _video_stream(path: Path, container: Any) -> Any:
    """Return the stream of moving pictures; a still picture and the cover of a recording are none."""
    import av

    brand = container.metadata.get("major_brand", "").strip()
    if container.format.name.endswith("_pipe") or brand in STILL_BRANDS:
        raise _still(path)
    if brand == "avis":
        raise InputError(f"{path} is an animated picture (AVIF), not a video; give an mp4, mov, mkv or webm")
    videos = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not videos:
        cover = " but a cover" if container.streams.video else ""
        kinds = ", ".join(sorted({s.type for s in container.streams} - {"video"})) or "nothing"
        raise InputError(f"{path} holds no picture{cover}, only {kinds}; give a video file")
    return next((s for s in videos if s.disposition & av.stream.Disposition.default), videos[0])


def _require_decoder(path: Path, stream: Any) -> None:
    if stream.codec_context is None:
        raise InputError(
            f"{path}: its {stream.type} is coded in a way that cannot be read; re-encode it as H.264 and AAC"
        )


def _seconds(stream: Any, otherwise: float) -> float:
    return float(stream.duration * stream.time_base) if stream.duration else otherwise
