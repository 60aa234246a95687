"""Films are shown as a player shows them: turned by their header, with square pixels, whatever their tags hold."""

import contextlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from liveavatar.errors import InputError
from liveavatar.media.display import IDENTITY, square_size, turned, turned_size
from liveavatar.media.ffmpeg import probe_video, read_frames, read_video, read_video_audio
from tests.media.videos import tone, write

WIDTH, HEIGHT = 96, 64


def upright() -> np.ndarray:
    """A dark picture with a white corner at the upper left and a grey one at the upper right."""
    picture = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    picture[:24, :24], picture[:24, -24:] = 230, 130
    return picture


def film(
    path: Path, picture: np.ndarray, degrees: int = 0, mirrored: bool = False, aspect: Fraction | None = None
) -> Path:
    """A film of three equal pictures with a rotation (counterclockwise when shown) and a pixel aspect in its header."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25))
        stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "yuv420p"
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if degrees or mirrored:
            stream.set_display_rotation(degrees, hflip=mirrored)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", [pytest.param("mp4"), pytest.param("mov"), pytest.param("mkv")])
@pytest.mark.parametrize(
    ("degrees", "quarters"),
    [
        pytest.param(90, 1, id="quarter left"),
        pytest.param(-90, -1, id="quarter right"),
        pytest.param(180, 2, id="upside down"),
        pytest.param(0, 0, id="upright"),
    ],
)
def test_rotation_of_the_header_is_applied(tmp_path: Path, degrees: int, quarters: int, suffix: str) -> None:
    path = film(tmp_path / f"film.{suffix}", np.rot90(upright(), -quarters).copy(), degrees)
    info, frames = read_video(path)
    assert (info.width, info.height) == (WIDTH, HEIGHT)
    for frame in frames:
        assert frame.shape == (HEIGHT, WIDTH, 3)
        assert np.abs(frame.astype(int) - upright()).mean() < 6


@pytest.mark.parametrize(
    ("aspect", "size"),
    [
        pytest.param(Fraction(2), (192, 64), id="wide pixels"),
        pytest.param(Fraction(1, 2), (96, 128), id="tall pixels"),
        pytest.param(Fraction(1), (96, 64), id="square"),
        pytest.param(Fraction(200), (96, 64), id="nonsense"),
    ],
)
def test_pixel_aspect_is_applied(tmp_path: Path, aspect: Fraction, size: tuple[int, int]) -> None:
    path = film(tmp_path / "film.mp4", upright(), aspect=aspect)
    info = probe_video(path)
    assert (info.width, info.height) == size == square_size(WIDTH, HEIGHT, aspect)
    assert all(frame.rgb.shape == (size[1], size[0], 3) for frame in read_frames(path))


def test_pixel_aspect_lies_on_the_stored_picture(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4", np.rot90(upright(), -1).copy(), 90, aspect=Fraction(2))
    info = probe_video(path)
    assert (info.width, info.height) == (WIDTH, 2 * HEIGHT)
    assert next(read_frames(path)).rgb.shape == (2 * HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        pytest.param(IDENTITY, [[1, 2], [3, 4], [5, 6]], id="as stored"),
        pytest.param((-1, 0, 0, 1), [[2, 1], [4, 3], [6, 5]], id="mirrored"),
        pytest.param((1, 0, 0, -1), [[5, 6], [3, 4], [1, 2]], id="flipped"),
        pytest.param((-1, 0, 0, -1), [[6, 5], [4, 3], [2, 1]], id="half"),
        pytest.param((0, 1, -1, 0), [[5, 3, 1], [6, 4, 2]], id="quarter right"),
        pytest.param((0, -1, 1, 0), [[2, 4, 6], [1, 3, 5]], id="quarter left"),
        pytest.param((0, 1, 1, 0), [[1, 3, 5], [2, 4, 6]], id="transposed"),
        pytest.param((0, -1, -1, 0), [[6, 4, 2], [5, 3, 1]], id="transposed over the other diagonal"),
    ],
)
def test_all_eight_positions(matrix: tuple[int, int, int, int], expected: list[list[int]]) -> None:
    stored = np.array([[1, 2], [3, 4], [5, 6]], np.uint8)[..., None]
    shown = turned(stored, matrix)
    np.testing.assert_array_equal(shown[..., 0], expected)
    assert turned_size(2, 3, matrix) == (shown.shape[1], shown.shape[0])


def test_tags_need_not_be_utf_8(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4", upright())
    with av.open(str(path)) as source, av.open(str(tmp_path / "tag.mp4"), "w") as out:
        out.metadata["artist"] = "Josexx"
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    tagged = tmp_path / "tag.mp4"
    content = tagged.read_bytes()
    assert content.count(b"Josexx") == 1
    tagged.write_bytes(content.replace(b"Josexx", b"Jos\xe9 B"))
    info, frames = read_video(tagged)
    assert (info.width, info.height) == (WIDTH, HEIGHT)
    assert len(list(frames)) == 3


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        pytest.param("film.mp4", "ffconcat version 1.0\nfile good.mp4\n", "it is a playlist", id="concat list"),
        pytest.param("film.m3u8", "#EXTM3U\n#EXTINF:1,\ngood.mp4\n#EXT-X-ENDLIST\n", "it is a playlist", id="playlist"),
        pytest.param("film.sub", "{1}{2}words\n", "no media file", id="subtitles"),
    ],
)
def test_a_file_that_opens_others_is_no_film(tmp_path: Path, name: str, text: str, says: str) -> None:
    film(tmp_path / "good.mp4", upright())
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=says):
        probe_video(tmp_path / name)


def test_a_name_like_a_protocol_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    film(tmp_path / "good.mp4", upright()).rename(tmp_path / "concat:a|b.mp4")
    assert probe_video(Path("concat:a|b.mp4")).num_frames == 3


def test_an_unknown_codec_is_named(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4", upright())
    path.write_bytes(path.read_bytes().replace(b"avc1", b"xyz9").replace(b"avcC", b"xyzC"))
    with pytest.raises(InputError, match="video is coded in a way that cannot be read"):
        read_video(path)


def test_an_unknown_sound_leaves_the_pictures(tmp_path: Path) -> None:
    path = write(tmp_path / "film.mp4", 5, tone(0.2))
    path.write_bytes(path.read_bytes().replace(b"mp4a", b"xyz9").replace(b"esds", b"xyzC"))
    assert len(list(read_frames(path))) == 5
    with pytest.raises(InputError, match="audio is coded in a way that cannot be read"):
        read_video_audio(path)


def test_flipped_bytes_are_read_or_refused(tmp_path: Path) -> None:
    content = film(tmp_path / "film.mp4", upright()).read_bytes()
    rng = np.random.default_rng(3)
    path = tmp_path / "damaged.mp4"
    for _ in range(60):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[rng.integers(0, len(content), 6)] = rng.integers(0, 256, 6)
        path.write_bytes(damaged.tobytes())
        with contextlib.suppress(InputError):  # any other error fails the test
            for frame, _ in zip(read_video(path)[1], range(10), strict=False):
                assert frame.dtype == np.uint8
