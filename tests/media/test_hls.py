"""HLS output that plays while it grows."""

from pathlib import Path

import av
import numpy as np
import pytest

from liveavatar.media.ffmpeg import read_frames
from liveavatar.media.film import FilmWriter
from liveavatar.timing import SAMPLE_RATE
from tests.media.videos import HEIGHT, WIDTH, pictures, tone


def test_live_output_plays_while_it_grows(tmp_path: Path) -> None:
    playlist = tmp_path / "live" / "index.m3u8"
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT), audio=tone(5), live_dir=tmp_path / "live") as writer:
        writer.write(pictures(0, 96))
        text = playlist.read_text()
        assert text.count("#EXTINF:1.92000,") == 2
        assert "#EXT-X-ENDLIST" not in text
        joined = b"".join((tmp_path / "live" / name).read_bytes() for name in ("init.mp4", "segment_000000.m4s"))
        (tmp_path / "head.mp4").write_bytes(joined)
        assert sum(1 for _ in read_frames(tmp_path / "head.mp4")) == 48
        writer.write(pictures(96, 125))
        writer.close()
    text = playlist.read_text()
    assert text.endswith("#EXT-X-ENDLIST\n")
    assert "#EXTINF:1.16000," in text
    video, sound = [], []
    with av.open(str(playlist)) as container:
        for frame in container.decode():
            (video if isinstance(frame, av.VideoFrame) else sound).append(frame.time)
    assert video == pytest.approx([i / 25 for i in range(125)])
    assert sound[0] == pytest.approx(0, abs=1e-6)
    assert np.diff(sound) == pytest.approx(1024 / 48_000)  # no gap where segments meet
    assert sound[-1] + 1024 / 48_000 == pytest.approx(5.0, abs=0.04)


@pytest.mark.parametrize("onset", [pytest.param(0.5, id="in the first segment"), pytest.param(3.0, id="later")])
def test_live_sound_is_heard_at_its_time(onset: float, tmp_path: Path) -> None:
    audio = tone(5)
    audio[: round(onset * SAMPLE_RATE)] = 0
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT), audio=audio, live_dir=tmp_path / "live") as writer:
        writer.write(pictures(0, 125))
        writer.close()
    with av.open(str(tmp_path / "live" / "index.m3u8")) as container:
        frames = [(frame.time, frame.to_ndarray().reshape(-1)) for frame in container.decode(audio=0)]
    times = np.concatenate([time + np.arange(len(pcm)) / 48_000 for time, pcm in frames])
    loud = np.abs(np.concatenate([pcm for _, pcm in frames])) > 0.1
    assert times[loud][0] == pytest.approx(onset, abs=0.005)


@pytest.mark.parametrize("seconds", [pytest.param(1.0, id="in the first segment"), pytest.param(2.5, id="later")])
def test_sound_that_ends_before_the_pictures(seconds: float, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with FilmWriter(path, size=(WIDTH, HEIGHT), audio=tone(seconds), live_dir=tmp_path / "live") as writer:
        for start in range(0, 144, 12):
            writer.write(pictures(start, start + 12))
        writer.close()
    with av.open(str(tmp_path / "live" / "index.m3u8")) as container:
        kinds = [isinstance(frame, av.VideoFrame) for frame in container.decode()]
    assert kinds.count(True) == 144
    assert kinds.count(False) == pytest.approx(seconds * 48_000 / 1024, abs=2)
