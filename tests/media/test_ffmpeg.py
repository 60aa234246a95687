"""Probing and reading videos: lengths, colours, the clock of the sound, and files that are no video."""

import gc
import importlib.resources
import os
import shutil
import subprocess
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from liveavatar.errors import CapacityError, InputError
from liveavatar.media.ffmpeg import (
    MediaError,
    ffmpeg_binary,
    ffmpeg_failure,
    probe_video,
    read_frames,
    read_video,
    read_video_audio,
)
from liveavatar.timing import SAMPLE_RATE
from tests.media.videos import HEIGHT, WIDTH, picture, tone, write


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


def test_time_goes_on_where_recordings_are_glued(tmp_path: Path) -> None:
    part, glued = tmp_path / "part.ts", tmp_path / "glued.ts"
    source = ["-i", str(write(tmp_path / "film.mp4", 24)), "-c", "copy"]
    subprocess.run([ffmpeg_binary(), "-v", "error", *source, str(part)], check=True)
    glued.write_bytes(2 * part.read_bytes())
    assert [frame.seconds for frame in read_frames(glued)] == pytest.approx([i / 25 for i in range(48)], abs=1e-4)


def test_frames_are_not_kept_until_garbage_is_collected(tmp_path: Path) -> None:
    path = write(tmp_path / "film.mp4", 50)
    gc.collect()
    gc.disable()
    try:
        alive = [sum(type(o) is av.VideoFrame for o in gc.get_objects()) for _ in islice(read_frames(path), 0, 50, 12)]
    finally:
        gc.enable()
    assert max(alive) <= 8  # the decoder holds some


def test_only_the_frames_asked_for_are_decoded(tmp_path: Path) -> None:
    path = write(tmp_path / "film.mp4", 12)
    whole = list(read_frames(path))
    some = list(read_frames(path, {2, 7, 40}))
    assert [(f.index, f.seconds) for f in some] == [(f.index, f.seconds) for f in whole if f.index in (2, 7)]
    assert all(np.array_equal(f.rgb, whole[f.index].rgb) for f in some)
    assert not list(read_frames(path, ()))


def test_frames_a_second_of_dv_are_not_its_clocks(tmp_path: Path) -> None:
    path = tmp_path / "a.dv"
    source = ["-i", str(write(tmp_path / "film.mp4", 24)), "-target", "pal-dv", str(path)]
    subprocess.run([ffmpeg_binary(), "-v", "error", *source], check=True)
    info = probe_video(path)
    assert (info.fps, info.num_frames) == (25.0, 24)


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
    for read in (probe_video, lambda path: list(read_frames(path)), read_video_audio):
        with pytest.raises(InputError, match=message) as refused:
            read(path)
        assert "render" not in str(refused.value), "it is the user's file, and no option is known here"
        assert "--" not in str(refused.value)


def test_a_user_s_video_that_breaks_off_is_not_rendered_again(tmp_path: Path) -> None:
    """Noise inside the coded pictures and the coded sound."""
    path = write(tmp_path / "film.mp4", 48, tone(48 / 25))
    content, random = bytearray(path.read_bytes()), np.random.default_rng(3)
    start = content.index(b"mdat") + 8
    content[start:] = random.integers(0, 256, len(content) - start, np.uint8).tobytes()
    path.write_bytes(content)
    for read in (lambda path: list(read_frames(path)), read_video_audio):
        with pytest.raises(InputError, match=r"film\.mp4 .*; copy or export it again$") as refused:
            read(path)
        assert "render" not in str(refused.value)


@pytest.mark.parametrize(
    ("transfer", "says"),
    [
        pytest.param("smpte2084", "its colours are HDR (PQ) and are read as if they were not", id="PQ"),
        pytest.param("arib-std-b67", "its colours are HDR (HLG) and are read as if they were not", id="HLG"),
        pytest.param("bt709", "", id="SDR"),
    ],
)
def test_colours_that_are_hdr_are_named(
    transfer: str, says: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, path = write(tmp_path / "film.mp4", 12), tmp_path / "hdr.mp4"
    colours = f"format=yuv420p10,setparams=color_primaries=bt2020:colorspace=bt2020nc:color_trc={transfer}"
    subprocess.run([ffmpeg_binary(), "-v", "error", "-i", str(source), "-vf", colours, str(path)], check=True)
    probe_video(path)
    assert says in caplog.text
    assert len(caplog.records) == bool(says)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "gif", "bmp", "tiff", "avif"])
def test_a_still_picture_is_no_film(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"picture.{kind}"
    Image.fromarray(picture(0)).save(path)
    for name in (path, shutil.copy(path, tmp_path / "film.mp4")):
        with pytest.raises(InputError, match="still picture"):
            probe_video(Path(name))


def test_the_cover_of_a_recording_is_no_film(tmp_path: Path) -> None:
    Image.fromarray(picture(0)).save(tmp_path / "cover.jpg")
    path = tmp_path / "song.mp3"
    command = [ffmpeg_binary(), "-v", "error", "-f", "lavfi", "-i", "sine=d=1", "-i", str(tmp_path / "cover.jpg")]
    command += ["-map", "0", "-map", "1", "-c:v", "copy", "-disposition:v", "attached_pic", str(path)]
    subprocess.run(command, check=True)
    with pytest.raises(InputError, match="no picture but a cover, only audio"):
        probe_video(path)


def _converted(folder: Path, name: str, *options: str) -> Path:
    command = [ffmpeg_binary(), "-v", "error", "-nostdin", *options, str(folder / name)]
    subprocess.run(command, check=True)
    return folder / name


def test_pictures_that_stay_as_they_were_are_no_damage(tmp_path: Path) -> None:
    still = ("-f", "lavfi", "-i", "color=gray:s=64x64:d=1:r=25")
    film = _converted(tmp_path, "a.ogv", *still, "-c:v", "libtheora")
    with av.open(str(film)) as container:
        assert any(packet.size == 0 and packet.dts is not None for packet in container.demux(video=0))
    assert {frame.rgb.shape for frame in read_frames(film)} == {(64, 64, 3)}


def test_of_several_streams_the_default_one_is_taken(tmp_path: Path) -> None:
    inputs = [("-f", "lavfi", "-i", f"color=gray:s={size}:d=1:r=25") for size in ("320x240", "64x64")]
    chosen = ("-map", "0", "-map", "1", "-disposition:v:0", "0", "-disposition:v:1", "default")
    film = _converted(tmp_path, "a.mkv", *inputs[0], *inputs[1], *chosen, "-c:v", "libx264")
    assert probe_video(film).width == 64
    assert next(read_frames(film)).rgb.shape == (64, 64, 3)


def test_an_animated_avif_is_no_film_of_one_picture(tmp_path: Path) -> None:
    pictures = [Image.fromarray(picture(index)) for index in range(3)]
    pictures[0].save(tmp_path / "a.avif", save_all=True, append_images=pictures[1:])
    with pytest.raises(InputError, match="is an animated picture"):
        probe_video(tmp_path / "a.avif")


def test_a_sound_file_is_no_film(tmp_path: Path) -> None:
    from scipy.io import wavfile

    wavfile.write(tmp_path / "tone.wav", SAMPLE_RATE, tone(1))
    with pytest.raises(InputError, match="no picture"):
        probe_video(tmp_path / "tone.wav")


def test_tags_may_be_in_any_encoding(tmp_path: Path) -> None:
    plain, tagged = write(tmp_path / "film.mp4", 25, tone(1)), tmp_path / "tagged.mp4"
    run = [ffmpeg_binary(), "-v", "error", "-i", str(plain), "-c", "copy", "-metadata", "title=Jos@", str(tagged)]
    subprocess.run(run, check=True)
    assert b"Jos@" in tagged.read_bytes()
    tagged.write_bytes(tagged.read_bytes().replace(b"Jos@", b"Jos\xe9"))
    assert probe_video(tagged) == probe_video(plain)
    assert len(list(read_frames(tagged))) == 25
    assert np.array_equal(read_video_audio(tagged), read_video_audio(plain))


def test_a_silent_film_has_no_sound_to_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sound"):
        read_video_audio(write(tmp_path / "film.mp4", 10))


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


def test_ffmpeg_is_found_although_a_trial_would_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*command: object, **options: object) -> None:
        raise subprocess.CalledProcessError(255, ["ffmpeg", "-version"])

    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE", raising=False)
    monkeypatch.setattr(subprocess, "Popen", killed)
    monkeypatch.setattr(subprocess, "check_call", killed)
    ffmpeg_binary.cache_clear()
    assert os.access(ffmpeg_binary(), os.X_OK)


def test_a_program_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for named in (tmp_path, tmp_path / "gone"):
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(named))
        ffmpeg_binary.cache_clear()
        with pytest.raises(CapacityError, match=f"IMAGEIO_FFMPEG_EXE={named} names no program; unset it"):
            ffmpeg_binary()
    ffmpeg_binary.cache_clear()


def test_without_the_program_of_the_wheel_one_on_the_path_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE", raising=False)
    monkeypatch.setattr(importlib.resources, "files", lambda _: tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    ffmpeg_binary.cache_clear()
    with pytest.raises(CapacityError, match="no ffmpeg for this platform"):
        ffmpeg_binary()
    (tmp_path / "ffmpeg").touch(mode=0o755)
    assert ffmpeg_binary() == str(tmp_path / "ffmpeg")
    ffmpeg_binary.cache_clear()


def test_a_full_disk_is_told_from_other_failures() -> None:
    full = ffmpeg_failure("video.mp4", 1, b"muxer:\nNo space left on device\n")
    assert isinstance(full, CapacityError)
    assert str(full) == (
        "video.mp4: the disk is full (muxer: | No space left on device); free some space and run again with --resume"
    )
    assert isinstance(ffmpeg_failure("video.mp4", 1, b"Unknown encoder"), MediaError)
