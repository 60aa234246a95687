"""FilmWriter: frames in; a growing mp4, an HLS playlist and a finished mp4 out.

Frames are coded in *segments* of `segment_frames` (48: one clip), each a closed group of pictures made by its own
ffmpeg run. A finished segment is appended to `.<name>.partial.mp4`, a fragmented mp4 that any player opens while it
grows and that survives a crash: a truncated tail is dropped on resume. Equal frames give equal bytes, whether or not
the writing was interrupted. The final name appears only when the film is whole.
"""

import hashlib
import logging
import os
from pathlib import Path
from types import TracebackType

import numpy as np

from liveavatar.errors import InputError
from liveavatar.files import disk_errors
from liveavatar.media import mp4
from liveavatar.media.encoder import SegmentEncoder
from liveavatar.media.ffmpeg import MediaError, mux, probe_video
from liveavatar.media.hls import LivePlaylist
from liveavatar.media.join import SegmentJoin
from liveavatar.media.ledger import SegmentLedger, VideoSegment
from liveavatar.media.recording import RecordingEncoder
from liveavatar.timing import FPS

log = logging.getLogger(__name__)

SEGMENT_FRAMES = 48  # one clip of four blocks; a snapshot falls on the same border
ENCODER = {
    "c:v": "libx264",
    "preset": "veryfast",
    "crf": 17,  # visually lossless at the sizes we make
    # The pictures after a key frame inherit its errors, so it is coded finer; see `liveavatar.media.join`.
    "x264-params": "ipratio=2:mbtree=0",
    "bf": 0,  # decode order = display order: segments join without negative times
    "sc_threshold": 0,
    "threads": 1,  # one thread codes the same bytes everywhere and leaves the cores to the model
    "pix_fmt": "yuv420p",
    "colorspace": "bt709",
    "color_primaries": "bt709",
    "color_trc": "bt709",
    "flags:v": "+bitexact",
    "fflags": "+bitexact",
    "movflags": "+frag_keyframe+empty_moov+default_base_moof+skip_trailer",
}


class FilmWriter:
    """Writer of one video: takes frames in order and produces an mp4.

    Use as a context manager: an exception stops the encoder and leaves the partial video for `resume_at`. Memory does
    not grow with the video's length.
    """

    def __init__(
        self,
        path: Path,
        *,
        size: tuple[int, int],
        fps: int = FPS,
        segment_frames: int = SEGMENT_FRAMES,
        live_dir: Path | None = None,
        audio: Path | np.ndarray | RecordingEncoder | None = None,
        ledger: Path | None = None,
        comment: str | None = None,
    ) -> None:
        """Prepare a video; nothing is written before the first frame.

        Args:
            path: name of the finished mp4.
            size: (width, height) in pixels, both even.
            fps: frames per second.
            segment_frames: frames of a segment.
            live_dir: folder of the live playlist, None for none.
            audio: sound file, or float32 mono 16 kHz samples; None for a silent film, or one given to `close`. Sound
                that still arrives is for the live playlist; the film's is then given to `close`.
            ledger: file for the digests of the segments, which a resumed film must match; None for no check.
            comment: text for the metadata of the finished mp4.

        Raises:
            InputError: odd sides, or a path that cannot be written.
        """
        width, height = size
        if width < 2 or height < 2 or width % 2 or height % 2:
            raise InputError(f"size {width}*{height}: H.264 wants even sides; use {width // 2 * 2}*{height // 2 * 2}")
        self.path = Path(path)
        self.size = size
        self.fps = fps
        self.segment_frames = segment_frames
        self.audio = audio
        self._comment = comment
        self._ledger = SegmentLedger(ledger) if ledger is not None else None
        self.num_frames = 0  # frames written so far
        self._encoder: SegmentEncoder | None = None
        self._in_segment = 0
        self._started = False
        self._join = SegmentJoin()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as e:
            raise InputError(f"{self.path.parent} is a file, not a folder; give another --out") from e
        self._live = LivePlaylist(Path(live_dir), fps, segment_frames, audio) if live_dir is not None else None

    def __enter__(self) -> "FilmWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None or self._encoder is not None:
            self.abort()

    @property
    def partial_path(self) -> Path:
        """File of the growing video: a fragmented mp4 without sound."""
        return self.path.with_name(f".{self.path.stem}.partial.mp4")

    @property
    def durable_frames(self) -> int:
        """Frames on the disk in whole segments: the largest index `resume_at` accepts."""
        if not self.partial_path.is_file():
            return 0
        if self._ledger is not None:
            live = self._live.segment_digests() if self._live is not None else []
            segments = self._ledger.whole(self.partial_path, live)
            return self.segment_frames * sum(segment.frames == self.segment_frames for segment in segments)
        whole = 0
        for fragment in mp4.scan(self.partial_path)[1]:
            if fragment.num_frames != self.segment_frames:
                break
            whole += fragment.num_frames
        return whole

    def resume_at(self, frame_index: int) -> None:
        """Resume an interrupted video: the next frame written is `frame_index`; later ones are dropped.

        Raises:
            InputError: when that is no segment border, is not on the disk, or is a film of another size or rate.
        """
        if self._started:
            raise InputError("resume_at comes before the first frame; open a new writer")
        if frame_index % self.segment_frames or frame_index < 0:
            border = frame_index // self.segment_frames * self.segment_frames
            raise InputError(
                f"frame {frame_index} is no border of {self.segment_frames}-frame segments; resume at {border}"
            )
        if frame_index > self.durable_frames:
            raise InputError(
                f"{self.partial_path} holds {self.durable_frames} whole frames, not {frame_index}; "
                f"resume at {self.durable_frames} or render again without --resume"
            )
        if frame_index == 0:
            return
        info = probe_video(self.partial_path)
        if (info.width, info.height) != self.size or round(info.fps) != self.fps:
            raise InputError(
                f"{self.partial_path} is {info.width}*{info.height} at {info.fps:g} fps, this job is "
                f"{self.size[0]}*{self.size[1]} at {self.fps}; render again without --resume"
            )
        num_segments = frame_index // self.segment_frames
        if self._ledger is not None:
            self._ledger.truncate(num_segments)
        os.truncate(self.partial_path, mp4.scan(self.partial_path)[1][num_segments - 1].end)
        if self._live is not None:
            try:
                self._live.restart(num_segments)
            except FileNotFoundError as e:
                raise InputError(f"live segment {e} is gone; render again without --resume") from e
        self._join.begin(mp4.last_fragment(self.partial_path), self.size, self.segment_frames)
        self.num_frames = frame_index
        self._started = True

    def cut(self, frame_index: int) -> None:
        """Drop the frames from `frame_index`, a segment border, on; the next frame written is that one."""
        self.abort()
        self._join, self._in_segment, self._started = SegmentJoin(), 0, False
        self.resume_at(frame_index)

    def write(self, frames: np.ndarray) -> None:
        """Append frames.

        Args:
            frames: uint8 RGB [T, H, W, 3].

        Raises:
            CapacityError: disk full.
            MediaError: the encoder failed, or was killed again and again.
        """
        width, height = self.size
        if frames.dtype != np.uint8 or frames.shape[1:] != (height, width, 3):
            raise ValueError(f"frames are {frames.dtype} {frames.shape}, wanted uint8 [T, {height}, {width}, 3]")
        if not self._started:
            self._start_over()
        for frame in frames:
            if self._encoder is None:
                options = ENCODER | {"g": self.segment_frames}
                self._encoder = SegmentEncoder(self._segment_path, self.size, self.fps, options)
            self._encoder.write(self._join.frame(frame, self._in_segment), self._coding)
            self.num_frames += 1
            self._in_segment += 1
            if self._in_segment == self.segment_frames:
                self._finish_segment()

    def close(self, audio: Path | np.ndarray | None = None) -> Path:
        """Finish the video: last segment, sound, index in front, final name.

        Args:
            audio: sound file, or float32 mono 16 kHz samples; overrides the constructor's.

        Returns:
            The path of the mp4, whose sound and picture are equally long.
        """
        if self._encoder is not None:
            self._finish_segment()
        if not self.num_frames:
            raise MediaError(f"{self.path}: no frame was written; there is nothing to play")
        sound = self.audio if audio is None else audio
        assert not isinstance(sound, RecordingEncoder), "the sound of a finished video is a file"
        out = mux(self.partial_path, sound, self.path, self.num_frames, self.fps, self._comment)
        if self._live is not None:
            self._live.finish()
        self.partial_path.unlink()
        if self._ledger is not None:
            self._ledger.delete()
        return out

    def abort(self) -> None:
        """Stop the encoder; whole segments remain on the disk for `resume_at`."""
        if self._encoder is not None:
            self._encoder.abort()
            self._encoder = None
        self._segment_path.unlink(missing_ok=True)

    @property
    def _coding(self) -> str:
        return f"coding frame {self.num_frames} of {self.path}"

    @property
    def _segment_path(self) -> Path:
        return self.path.with_name(f".{self.path.stem}.segment.mp4")

    def _start_over(self) -> None:
        self.partial_path.unlink(missing_ok=True)
        if self._ledger is not None:
            self._ledger.delete()
        if self._live is not None:
            self._live.restart()
        self._started = True

    def _finish_segment(self) -> None:
        encoder, self._encoder = self._encoder, None
        assert encoder is not None
        coded = encoder.finish(self._coding)
        first_frame = self.num_frames - self._in_segment
        self._join.begin(coded, self.size, self._in_segment)
        header, fragments = mp4.split(coded)
        fragments = mp4.moved(fragments, {1: first_frame * 512}, first_frame // self.segment_frames + 1)
        added = header + fragments if first_frame == 0 else fragments
        with disk_errors(self.path), self.partial_path.open("ab") as file:
            file.write(added)
            file.flush()
            os.fsync(file.fileno())
        if self._live is not None:
            self._live.append(coded, self._in_segment)
        if self._ledger is not None:
            live = self._live.segment_digests(first_frame // self.segment_frames)[0] if self._live is not None else ""
            digest = hashlib.sha256(added).hexdigest()
            segment = VideoSegment(frames=self._in_segment, size=len(added), sha256=digest, live=live)
            with disk_errors(self.path):
                self._ledger.append(segment)
        self._segment_path.unlink()
        self._in_segment = 0
