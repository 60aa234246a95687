"""Boxes of fragmented mp4 files."""

from fractions import Fraction
from pathlib import Path

import av
import pytest

from liveavatar.errors import InputError
from liveavatar.media import mp4
from liveavatar.media.ffmpeg import probe_video, read_frames
from liveavatar.media.film import FilmWriter
from tests.media.videos import HEIGHT, WIDTH, pictures, tone, write


def test_fragments_move_in_time(tmp_path: Path) -> None:
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT)) as writer:
        writer.write(pictures(0, 96))
        data = writer.partial_path.read_bytes()
    header, fragments = mp4.split(data)
    assert mp4.moved(fragments, {1: 0}, 1) == fragments
    (tmp_path / "late.mp4").write_bytes(header + mp4.moved(fragments, {1: 100 * 512}, 1))
    with av.open(str(tmp_path / "late.mp4")) as container:
        assert next(container.decode(video=0)).pts * container.streams.video[0].time_base == Fraction(100, 25)
    with pytest.raises(ValueError, match="no fragmented mp4"):
        mp4.split(b"not an mp4 at all")


def test_a_video_that_lacks_its_end_is_refused_wherever_the_cut_is(tmp_path: Path) -> None:
    whole = write(tmp_path / "film.mp4", 48, tone(48 / 25))
    assert mp4.missing_bytes(whole) == 0
    assert sum(1 for _ in read_frames(whole)) == 48
    content, cut = whole.read_bytes(), tmp_path / "cut.mp4"
    for share in (0.5, 0.9, 0.97, 0.99):
        cut.write_bytes(content[: int(share * len(content))])
        lost = len(content) - cut.stat().st_size
        with pytest.raises(InputError, match=rf"cut.mp4 is cut off: {lost} of its {len(content)} bytes are missing"):
            probe_video(cut)


def test_boxes_of_64_bits_and_files_of_other_kinds(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    for size, lost in ((5_000, 4_000), (1_000, 0), (1_100, 0)):
        path.write_bytes(b"\0\0\0\x08ftyp" + b"\0\0\0\1mdat" + (size + 16).to_bytes(8) + bytes(1_000))
        assert mp4.missing_bytes(path) == lost
    path.write_bytes(b"\0\0\0\x08ftyp" + b"\0\0\0\0mdat" + bytes(1_000))
    assert mp4.missing_bytes(path) == 0, "to the end"
    path.write_bytes(b"RIFF\0\0\1\0mdat")
    assert mp4.missing_bytes(path) == 0
