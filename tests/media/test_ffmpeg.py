"""Films on the disk: lengths, growth, resume, live output, and what happens when ffmpeg or the disk fails."""

import errno
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from liveavatar.errors import CapacityError, InputError
from liveavatar.media import film, mp4
from liveavatar.media.ffmpeg import MediaError, probe_video, read_frames, read_video, read_video_audio
from liveavatar.media.film import FilmWriter
from liveavatar.timing import SAMPLE_RATE

WIDTH, HEIGHT = 96, 64


def picture(index: int) -> np.ndarray:
    """A smooth picture whose brightness tells its number."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    shade = 40 + index % 160
    return np.stack([shade + x * 0.3, shade + y * 0.3, np.full_like(x, shade, float)], -1).astype(np.uint8)


def pictures(start: int, end: int) -> np.ndarray:
    return np.stack([picture(i) for i in range(start, end)])


def tone(seconds: float, hertz: float = 440) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE)).astype(np.float32)


def write(path: Path, num_frames: int, audio: np.ndarray | None = None, live: bool = False) -> Path:
    live_dir = path.with_suffix(".live") if live else None
    with FilmWriter(path, size=(WIDTH, HEIGHT), audio=audio, live_dir=live_dir) as sink:
        for start in range(0, num_frames, 12):
            sink.write(pictures(start, min(start + 12, num_frames)))
        return sink.close()


@pytest.mark.parametrize(
    ("num_frames", "seconds"),
    [
        pytest.param(1, 0.04, id="one frame"),
        pytest.param(48, 1.92, id="exactly one segment"),
        pytest.param(49, 5.0, id="one frame over, sound too long"),
        pytest.param(130, 3.0, id="sound too short"),
        pytest.param(100, 4.0, id="equal"),
    ],
)
def test_picture_and_sound_end_together(num_frames: int, seconds: float, tmp_path: Path) -> None:
    info = probe_video(write(tmp_path / "film.mp4", num_frames, tone(seconds)))
    assert (info.width, info.height, info.fps, info.num_frames) == (WIDTH, HEIGHT, 25, num_frames)
    assert (info.codec, info.pixel_format) == ("h264", "yuv420p")
    assert info.video_seconds == pytest.approx(num_frames / 25, abs=1e-6)
    assert info.audio_seconds == pytest.approx(info.video_seconds, abs=0.040)
    with av.open(str(tmp_path / "film.mp4")) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
        assert container.streams.audio[0].codec_context.sample_rate == 48_000


def test_frames_come_back_in_order_with_their_colours(tmp_path: Path) -> None:
    path = write(tmp_path / "film.mp4", 100)
    info, frames = read_video(path)
    assert info.audio_seconds is None
    count = 0
    for index, frame in enumerate(frames):
        assert np.abs(frame.astype(int) - picture(index)).mean() < 3
        count += 1
    assert count == 100
    assert [f.seconds for f in read_frames(path)] == pytest.approx([i / 25 for i in range(100)])


def test_sound_is_on_the_pictures_clock(tmp_path: Path) -> None:
    audio = np.zeros(3 * SAMPLE_RATE, np.float32)
    audio[SAMPLE_RATE : SAMPLE_RATE + 800] = tone(0.05, 1000)
    heard = read_video_audio(write(tmp_path / "film.mp4", 75, audio))
    assert len(heard) == pytest.approx(len(audio), abs=1024 / 48_000 * SAMPLE_RATE)
    start = np.flatnonzero(np.abs(heard) > 0.1)[0] / SAMPLE_RATE
    assert start == pytest.approx(1.0, abs=0.005)


def test_sound_from_a_file_and_from_samples_are_the_same(tmp_path: Path) -> None:
    from scipy.io import wavfile

    audio = tone(2)
    wavfile.write(tmp_path / "tone.wav", SAMPLE_RATE, audio)
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT), audio=tmp_path / "tone.wav") as sink:
        sink.write(pictures(0, 50))
        sink.close()
    assert (tmp_path / "film.mp4").read_bytes() == write(tmp_path / "other.mp4", 50, audio).read_bytes()


def test_the_index_is_in_front_and_nothing_is_left_over(tmp_path: Path) -> None:
    path = write(tmp_path / "film.mp4", 60, tone(2.4))
    kinds = [box.kind for box in mp4.boxes(path.read_bytes())]
    assert kinds.index("moov") < kinds.index("mdat")
    assert "moof" not in kinds
    assert os.listdir(tmp_path) == ["film.mp4"]


def test_the_film_grows_while_it_is_made(tmp_path: Path) -> None:
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT)) as sink:
        sizes = []
        for start in range(0, 144, 48):
            sink.write(pictures(start, start + 48))
            sizes.append(sink.partial_path.stat().st_size)
            assert sink.durable_frames == start + 48
            assert sum(1 for _ in read_frames(sink.partial_path)) == start + 48
        assert sizes[0] < sizes[1] < sizes[2]
        assert not sink.path.exists()
        sink.close()


@pytest.mark.parametrize("stop", [48, 50, 95, 96, 140])
def test_an_interrupted_film_becomes_the_same_bytes(stop: int, tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.mp4", 150, tone(6), live=True)
    target = tmp_path / "resumed.mp4"
    options = {"size": (WIDTH, HEIGHT), "audio": tone(6), "live_dir": target.with_suffix(".live")}
    with FilmWriter(target, **options) as sink:
        sink.write(pictures(0, stop))  # left without `close`, as by an exception
    with FilmWriter(target, **options) as sink:
        border = sink.durable_frames
        assert border == stop // 48 * 48
        sink.resume_at(border)
        sink.write(pictures(border, 150))
        sink.close()
    assert target.read_bytes() == whole.read_bytes()
    for file in whole.with_suffix(".live").iterdir():
        assert (target.with_suffix(".live") / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_torn_tail_is_dropped_on_resume(tmp_path: Path) -> None:
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT)) as sink:
        sink.write(pictures(0, 96))
        partial = sink.partial_path
    data = partial.read_bytes()
    partial.write_bytes(data[:-100])
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT)) as sink:
        assert sink.durable_frames == 48
        sink.resume_at(48)
        sink.write(pictures(48, 96))
        assert partial.read_bytes() == data


@pytest.mark.parametrize(
    ("frame_index", "size", "message"),
    [
        pytest.param(50, (WIDTH, HEIGHT), "no border", id="inside a segment"),
        pytest.param(96, (WIDTH, HEIGHT), "holds 48", id="more than there is"),
        pytest.param(48, (WIDTH, HEIGHT + 2), "this job is", id="another size"),
    ],
)
def test_resume_refuses(frame_index: int, size: tuple[int, int], message: str, tmp_path: Path) -> None:
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT)) as sink:
        sink.write(pictures(0, 48))
    with pytest.raises(InputError, match=message):
        FilmWriter(tmp_path / "film.mp4", size=size).resume_at(frame_index)


def test_a_fresh_film_forgets_the_old_one(tmp_path: Path) -> None:
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT), live_dir=tmp_path / "live") as sink:
        sink.write(pictures(0, 96))
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT), live_dir=tmp_path / "live") as sink:
        sink.write(pictures(0, 20))
        sink.close()
    assert probe_video(tmp_path / "film.mp4").num_frames == 20
    assert sorted(p.name for p in (tmp_path / "live").iterdir()) == ["index.m3u8", "init.mp4", "segment_000000.m4s"]


def test_live_output_plays_while_it_grows(tmp_path: Path) -> None:
    playlist = tmp_path / "live" / "index.m3u8"
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT), audio=tone(5), live_dir=tmp_path / "live") as sink:
        sink.write(pictures(0, 96))
        text = playlist.read_text()
        assert text.count("#EXTINF:1.92000,") == 2
        assert "#EXT-X-ENDLIST" not in text
        joined = b"".join((tmp_path / "live" / name).read_bytes() for name in ("init.mp4", "segment_000000.m4s"))
        (tmp_path / "head.mp4").write_bytes(joined)
        assert sum(1 for _ in read_frames(tmp_path / "head.mp4")) == 48
        sink.write(pictures(96, 125))
        sink.close()
    text = playlist.read_text()
    assert text.endswith("#EXT-X-ENDLIST\n")
    assert "#EXTINF:1.16000," in text
    video, sound = [], []
    with av.open(str(playlist)) as container:
        for frame in container.decode():
            (video if isinstance(frame, av.VideoFrame) else sound).append(frame.time)
    assert video == pytest.approx([i / 25 for i in range(125)])
    assert np.diff(sound) == pytest.approx(1024 / 48_000)  # no gap where segments meet
    assert sound[-1] + 1024 / 48_000 == pytest.approx(5.0, abs=0.04)


@pytest.mark.parametrize("seconds", [pytest.param(1.0, id="in the first segment"), pytest.param(2.5, id="later")])
def test_live_sound_that_ends_early(seconds: float, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with FilmWriter(path, size=(WIDTH, HEIGHT), audio=tone(seconds), live_dir=tmp_path / "live") as sink:
        for start in range(0, 144, 12):
            sink.write(pictures(start, start + 12))
        sink.close()
    with av.open(str(tmp_path / "live" / "index.m3u8")) as container:
        kinds = [isinstance(frame, av.VideoFrame) for frame in container.decode()]
    assert kinds.count(True) == 144
    assert kinds.count(False) == pytest.approx(seconds * 48_000 / 1024, abs=2)


@pytest.mark.parametrize(
    "size",
    [pytest.param((7, 8), id="odd width"), pytest.param((8, 7), id="odd height"), pytest.param((0, 8), id="nothing")],
)
def test_sizes_h264_cannot_hold_are_refused(size: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="even"):
        FilmWriter(tmp_path / "film.mp4", size=size)


def test_an_output_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="not a folder"):
        FilmWriter(tmp_path / "out" / "film.mp4", size=(WIDTH, HEIGHT))


def test_a_film_without_frames_is_no_film(tmp_path: Path) -> None:
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT)) as sink, pytest.raises(MediaError, match="no frame"):
        sink.close()
    assert not (tmp_path / "film.mp4").exists()


def test_a_killed_encoder_is_told_and_resumable(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with FilmWriter(path, size=(WIDTH, HEIGHT)) as sink:
        sink.write(pictures(0, 60))
        assert sink._encoder is not None
        sink._encoder.kill()
        sink._encoder.wait()
        with pytest.raises(MediaError, match="signal 9"):
            sink.write(pictures(60, 108))
    assert os.listdir(tmp_path) == [".film.partial.mp4"]
    assert FilmWriter(path, size=(WIDTH, HEIGHT)).durable_frames == 48


def test_a_failing_ffmpeg_leaves_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(film.ENCODER, "c:v", "no_such_codec")
    with pytest.raises(MediaError, match="no_such_codec"), FilmWriter(tmp_path / "f.mp4", size=(WIDTH, HEIGHT)) as sink:
        sink.write(pictures(0, 48))
    assert not (tmp_path / "f.mp4").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("where", [pytest.param("_segment_path", id="ffmpeg"), pytest.param("partial_path", id="ours")])
def test_a_full_disk_while_writing(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = Path.unlink
    monkeypatch.setattr(FilmWriter, where, property(lambda self: Path("/dev/full")))
    monkeypatch.setattr(Path, "unlink", lambda p, missing_ok=False: p == Path("/dev/full") or unlink(p, missing_ok))
    with pytest.raises(CapacityError, match="full"), FilmWriter(tmp_path / "f.mp4", size=(WIDTH, HEIGHT)) as sink:
        sink.write(pictures(0, 48))


def test_a_full_disk_at_the_end_leaves_no_half_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT)) as sink:
        sink.write(pictures(0, 48))
        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(CapacityError, match="disk is full"):
            sink.close()
    assert os.listdir(tmp_path) == [".film.partial.mp4"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda p: None, "not there", id="missing"),
        pytest.param(lambda p: p.write_bytes(b""), "0 bytes", id="empty"),
        pytest.param(lambda p: p.write_text("I am a film, honestly"), "no media file", id="text"),
        pytest.param(lambda p: p.write_bytes(bytes(5000)), "no media file", id="zeros"),
    ],
)
def test_what_is_no_film_is_refused(make: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    make(path)  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        probe_video(path)


def test_a_sound_file_is_no_film(tmp_path: Path) -> None:
    from scipy.io import wavfile

    wavfile.write(tmp_path / "tone.wav", SAMPLE_RATE, tone(1))
    with pytest.raises(InputError, match="no picture"):
        probe_video(tmp_path / "tone.wav")


def test_a_silent_film_has_no_sound_to_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sound"):
        read_video_audio(write(tmp_path / "film.mp4", 10))


def test_fragments_move_in_time(tmp_path: Path) -> None:
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT)) as sink:
        sink.write(pictures(0, 96))
        data = sink.partial_path.read_bytes()
    header, fragments = mp4.split(data)
    assert mp4.moved(fragments, {1: 0}, 1) == fragments
    (tmp_path / "late.mp4").write_bytes(header + mp4.moved(fragments, {1: 100 * 512}, 1))
    with av.open(str(tmp_path / "late.mp4")) as container:
        assert next(container.decode(video=0)).pts * container.streams.video[0].time_base == Fraction(100, 25)
    with pytest.raises(ValueError, match="no fragmented mp4"):
        mp4.split(b"not an mp4 at all")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_film(tmp_path: Path) -> None:
    import psutil

    process = psutil.Process()
    used = []
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT)) as sink:
        for start in range(0, 48 * 20, 48):
            sink.write(pictures(start, start + 48))
            used.append(process.memory_info().rss)
        sink.close()
    assert max(used[10:]) - used[5] < 8 * 2**20
