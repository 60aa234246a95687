"""Boxes of fragmented mp4 files."""

from fractions import Fraction
from pathlib import Path

import av
import pytest

from liveavatar.media import mp4
from liveavatar.media.film import FilmWriter
from tests.media.videos import HEIGHT, WIDTH, pictures


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
