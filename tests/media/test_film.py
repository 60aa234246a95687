"""Videos on the disk: growth, resume, and what happens when ffmpeg or the disk fails."""

import errno
import os
from pathlib import Path

import pytest

from liveavatar.errors import CapacityError, InputError
from liveavatar.media import film, mp4
from liveavatar.media.ffmpeg import MediaError, probe_video, read_frames
from liveavatar.media.film import FilmWriter
from liveavatar.timing import SAMPLE_RATE
from tests.media.videos import HEIGHT, WIDTH, kill_encoder, pictures, tone, write


def test_sound_from_a_file_and_from_samples_are_the_same(tmp_path: Path) -> None:
    from scipy.io import wavfile

    audio = tone(2)
    wavfile.write(tmp_path / "tone.wav", SAMPLE_RATE, audio)
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT), audio=tmp_path / "tone.wav") as writer:
        writer.write(pictures(0, 50))
        writer.close()
    assert (tmp_path / "film.mp4").read_bytes() == write(tmp_path / "other.mp4", 50, audio).read_bytes()


def test_the_index_is_in_front_and_nothing_is_left_over(tmp_path: Path) -> None:
    path = write(tmp_path / "film.mp4", 60, tone(2.4))
    kinds = [box.name for box in mp4.boxes(path.read_bytes())]
    assert kinds.index(b"moov") < kinds.index(b"mdat")
    assert b"moof" not in kinds
    assert os.listdir(tmp_path) == ["film.mp4"]


def test_the_film_grows_while_it_is_made(tmp_path: Path) -> None:
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT)) as writer:
        sizes = []
        for start in range(0, 144, 48):
            writer.write(pictures(start, start + 48))
            sizes.append(writer.partial_path.stat().st_size)
            assert writer.durable_frames == start + 48
            assert sum(1 for _ in read_frames(writer.partial_path)) == start + 48
        assert sizes[0] < sizes[1] < sizes[2]
        assert not writer.path.exists()
        writer.close()


@pytest.mark.parametrize("stop", [48, 50, 95, 96, 140])
def test_an_interrupted_film_becomes_the_same_bytes(stop: int, tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.mp4", 150, tone(6), live=True)
    target = tmp_path / "resumed.mp4"
    options = {"size": (WIDTH, HEIGHT), "audio": tone(6), "live_dir": target.with_suffix(".live")}
    with FilmWriter(target, **options) as writer:
        writer.write(pictures(0, stop))  # left without `close`, as by an exception
    with FilmWriter(target, **options) as writer:
        border = writer.durable_frames
        assert border == stop // 48 * 48
        writer.resume_at(border)
        writer.write(pictures(border, 150))
        writer.close()
    assert target.read_bytes() == whole.read_bytes()
    for file in whole.with_suffix(".live").iterdir():
        assert (target.with_suffix(".live") / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_torn_tail_is_dropped_on_resume(tmp_path: Path) -> None:
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT)) as writer:
        writer.write(pictures(0, 96))
        partial = writer.partial_path
    data = partial.read_bytes()
    partial.write_bytes(data[:-100])
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT)) as writer:
        assert writer.durable_frames == 48
        writer.resume_at(48)
        writer.write(pictures(48, 96))
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
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT)) as writer:
        writer.write(pictures(0, 48))
    with pytest.raises(InputError, match=message):
        FilmWriter(tmp_path / "film.mp4", size=size).resume_at(frame_index)


def test_a_fresh_film_forgets_the_old_one(tmp_path: Path) -> None:
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT), live_dir=tmp_path / "live") as writer:
        writer.write(pictures(0, 96))
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT), live_dir=tmp_path / "live") as writer:
        writer.write(pictures(0, 20))
        writer.close()
    assert probe_video(tmp_path / "film.mp4").num_frames == 20
    assert sorted(p.name for p in (tmp_path / "live").iterdir()) == ["index.m3u8", "init.mp4", "segment_000000.m4s"]


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
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT)) as writer, pytest.raises(MediaError, match="no frame"):
        writer.close()
    assert not (tmp_path / "film.mp4").exists()


@pytest.mark.parametrize("moments", [(60,), (94,), (60, 70)], ids=str)
def test_a_killed_encoder_is_replaced(tmp_path: Path, moments: tuple[int, ...]) -> None:
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT), live_dir=tmp_path / "film.live") as writer:
        for index in range(100):
            writer.write(pictures(index, index + 1))
            if index in moments:
                kill_encoder()
        writer.close()
    whole = write(tmp_path / "whole.mp4", 100, live=True)
    assert (tmp_path / "film.mp4").read_bytes() == whole.read_bytes()
    assert sorted(p.read_bytes() for p in (tmp_path / "film.live").iterdir()) == sorted(
        p.read_bytes() for p in whole.with_suffix(".live").iterdir()
    )


def write_killing(writer: FilmWriter, start: int, end: int) -> None:
    """Write frames and kill the encoder after each."""
    for index in range(start, end):
        writer.write(pictures(index, index + 1))
        kill_encoder()


def test_an_encoder_that_is_killed_again_and_again_is_told_and_resumable(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with FilmWriter(path, size=(WIDTH, HEIGHT)) as writer:
        writer.write(pictures(0, 60))
        with pytest.raises(MediaError, match="signal 9"):
            write_killing(writer, 60, 96)
    assert os.listdir(tmp_path) == [".film.partial.mp4"]
    assert FilmWriter(path, size=(WIDTH, HEIGHT)).durable_frames == 48


def test_a_failing_ffmpeg_leaves_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(film.ENCODER, "c:v", "no_such_codec")
    with (
        pytest.raises(MediaError, match="no_such_codec"),
        FilmWriter(tmp_path / "f.mp4", size=(WIDTH, HEIGHT)) as writer,
    ):
        writer.write(pictures(0, 48))
    assert not (tmp_path / "f.mp4").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("where", [pytest.param("_segment_path", id="ffmpeg"), pytest.param("partial_path", id="ours")])
def test_a_full_disk_while_writing(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = Path.unlink
    monkeypatch.setattr(FilmWriter, where, property(lambda self: Path("/dev/full")))
    monkeypatch.setattr(Path, "unlink", lambda p, missing_ok=False: p == Path("/dev/full") or unlink(p, missing_ok))
    with pytest.raises(CapacityError, match="full"), FilmWriter(tmp_path / "f.mp4", size=(WIDTH, HEIGHT)) as writer:
        writer.write(pictures(0, 48))


def test_a_full_disk_at_the_end_leaves_no_half_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT)) as writer:
        writer.write(pictures(0, 48))
        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(CapacityError, match="disk is full"):
            writer.close()
    assert os.listdir(tmp_path) == [".film.partial.mp4"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_film(tmp_path: Path) -> None:
    import psutil

    process = psutil.Process()
    used = []
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT)) as writer:
        for start in range(0, 48 * 20, 48):
            writer.write(pictures(start, start + 48))
            used.append(process.memory_info().rss)
        writer.close()
    assert max(used[10:]) - used[5] < 8 * 2**20
