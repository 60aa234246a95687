"""HLS output: a playlist and fragmented mp4 segments that a browser can play while they are made.

A *segment* holds a stretch of picture and its sound; the *playlist* (`index.m3u8`, RFC 8216, version 7) lists them and
ends with EXT-X-ENDLIST once the video is complete. The sound is coded once for the whole track and split by time, so
that there is no gap where segments meet.
"""

import hashlib
import io
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from liveavatar.files import disk_errors, read_bytes, write_atomically
from liveavatar.media import mp4
from liveavatar.media.ffmpeg import AUDIO_BITRATE, OUTPUT_RATE, run_ffmpeg
from liveavatar.media.recording import RecordingEncoder

PLAYLIST = "index.m3u8"
HEADER = "init.mp4"
SEGMENT_GLOB = "segment_*.m4s"


class LivePlaylist:
    """Writer of one video's HLS files; every file appears whole or not at all."""

    def __init__(
        self, folder: Path, fps: int, segment_frames: int, audio: Path | np.ndarray | RecordingEncoder | None = None
    ) -> None:
        """Prepare a folder.

        Args:
            folder: created when missing; files of an earlier video are removed by `restart`.
            fps: frames per second.
            segment_frames: frames of every segment but the last.
            audio: sound file, float32 mono 16 kHz samples, or sound that still arrives; None for a silent stream.
        """
        self.folder = folder
        self.fps = fps
        self.segment_frames = segment_frames
        self.audio = audio
        self._durations: list[int] = []  # frames per finished segment
        self._packets: Iterator[Any] | None = None
        self._next_packet: Any = None  # first sound packet of the next segment
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def restart(self, num_segments: int = 0) -> None:
        """Retain the first `num_segments` segments, delete the rest, and continue after them."""
        retained = [self.segment_path(i) for i in range(num_segments)]
        for path in self.folder.glob(SEGMENT_GLOB):
            if path not in retained:
                path.unlink()
        missing = next((p for p in retained if not p.is_file()), None)
        if missing is not None:
            raise FileNotFoundError(missing)
        self._durations = [self.segment_frames] * num_segments
        if num_segments:
            self._write_playlist(finished=False)
        else:
            for name in (PLAYLIST, HEADER):
                (self.folder / name).unlink(missing_ok=True)

    def segment_path(self, index: int) -> Path:
        """Path of one segment."""
        return self.folder / f"segment_{index:06d}.m4s"

    def segment_digests(self, first: int = 0) -> list[str]:
        """Return the sha256 of each segment on disk from `first` on; the first one's covers the header too."""
        digests = []
        while self.segment_path(first).is_file():
            header = self.folder / HEADER
            data = read_bytes(header) if first == 0 and header.is_file() else b""
            digests.append(hashlib.sha256(data + read_bytes(self.segment_path(first))).hexdigest())
            first += 1
        return digests

    def append(self, video: bytes, num_frames: int) -> None:
        """Publish the next segment.

        Args:
            video: an mp4 of only this stretch, its pictures starting at time 0.
            num_frames: pictures in it.
        """
        index = len(self._durations)
        first_frame = index * self.segment_frames
        header, fragments = self._with_sound(video, first_frame, num_frames, index)
        if index == 0:
            self._publish(self.folder / HEADER, header)
        self._publish(self.segment_path(index), fragments)
        self._durations.append(num_frames)
        self._write_playlist(finished=False)

    def finish(self) -> Path:
        """End the playlist, delete the working file, and return the playlist's path."""
        self._write_playlist(finished=True)
        if self._packets is not None:
            self._sound_container.close()
        self._audio_file.unlink(missing_ok=True)
        return self.folder / PLAYLIST

    @property
    def _audio_file(self) -> Path:
        return self.folder / ".sound.m4a"

    def _with_sound(self, video: bytes, first_frame: int, num_frames: int, index: int) -> tuple[bytes, bytes]:
        import av

        target = io.BytesIO()
        until = Fraction(first_frame + num_frames, self.fps)
        with av.open(io.BytesIO(video), "r") as source, self._new_container(target) as out:
            pictures = source.streams.video[0]
            tracks = [out.add_stream_from_template(pictures)]
            sound = self._sound_until(Fraction(first_frame, self.fps), until)
            if self.audio is not None:
                tracks.append(out.add_stream_from_template(self._sound_stream))
            for packet in source.demux(pictures):
                if packet.dts is not None:
                    packet.stream = tracks[0]
                    out.mux(packet)
            sound_start = sound[0].pts if sound else 0
            for packet in sound:
                packet.pts -= sound_start
                packet.dts = packet.pts
                packet.stream = tracks[1]
                out.mux(packet)
        header, fragments = mp4.split(target.getvalue())
        starts = {1: first_frame * 512, 2: sound_start}
        return header, mp4.moved(fragments, starts, index + 1)

    def _new_container(self, target: io.BytesIO) -> Any:
        import av

        return av.open(
            target, "w", format="mp4",
            options={
                "movflags": "frag_custom+empty_moov+default_base_moof+skip_trailer",
                "video_track_timescale": str(self.fps * 512),
                "fflags": "+bitexact",
            },
        )  # fmt: skip

    def _sound_until(self, start: Fraction, until: Fraction) -> list[Any]:
        """Return the coded sound packets up to a time in seconds, from the front of the remaining ones."""
        if self.audio is None:
            return []
        if isinstance(self.audio, RecordingEncoder):
            self._sound_stream = self.audio.stream
            return self.audio.between(start, until)
        if self._packets is None:
            self._packets = self._open_sound(len(self._durations) * self.segment_frames)
        packets = []
        packet = self._next_packet or next(self._packets, None)
        while packet is not None and packet.pts * packet.time_base < until:
            packets.append(packet)
            packet = next(self._packets, None)
        self._next_packet = packet
        return packets

    def _open_sound(self, first_frame: int) -> Iterator[Any]:
        import av
        import ffmpeg

        assert self.audio is not None
        assert not isinstance(self.audio, RecordingEncoder)
        samples = isinstance(self.audio, np.ndarray)
        source = ffmpeg.input("pipe:", format="f32le", ar=16_000, ac=1) if samples else ffmpeg.input(str(self.audio))
        node = source.audio.output(
            str(self._audio_file), format="mp4", acodec="aac", ar=OUTPUT_RATE,
            **{"b:a": AUDIO_BITRATE, "fflags": "+bitexact", "flags:a": "+bitexact"},
        )  # fmt: skip
        stdin = self.audio.astype("<f4").tobytes() if isinstance(self.audio, np.ndarray) else None
        run_ffmpeg(node, f"coding the sound of {self.folder}", stdin)
        # Stored as long as the playlist: a stream must not outlive its container.
        self._sound_container = av.open(str(self._audio_file))
        self._sound_stream = self._sound_container.streams.audio[0]
        start = Fraction(first_frame, self.fps)
        packets = self._sound_container.demux(self._sound_stream)
        return (p for p in packets if p.pts is not None and p.pts * p.time_base >= start)

    def _publish(self, path: Path, data: bytes) -> None:
        with disk_errors(path):
            write_atomically(path, data)

    def _write_playlist(self, finished: bool) -> None:
        lines = [
            "#EXTM3U",
            "#EXT-X-VERSION:7",
            f"#EXT-X-TARGETDURATION:{math.ceil(self.segment_frames / self.fps)}",
            "#EXT-X-MEDIA-SEQUENCE:0",
            "#EXT-X-PLAYLIST-TYPE:EVENT",
            "#EXT-X-INDEPENDENT-SEGMENTS",
            f'#EXT-X-MAP:URI="{HEADER}"',
        ]
        for index, frames in enumerate(self._durations):
            lines += [f"#EXTINF:{frames / self.fps:.5f},", self.segment_path(index).name]
        if finished:
            lines.append("#EXT-X-ENDLIST")
        self._publish(self.folder / PLAYLIST, ("\n".join(lines) + "\n").encode())
