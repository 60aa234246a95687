"""The mark of a render in a video's metadata."""

from pathlib import Path

import pytest

from liveavatar.media.film import FilmWriter
from liveavatar.media.origin import origin_mark, read_origin
from tests.media.videos import HEIGHT, WIDTH, pictures

KEY = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("comment", "found"),
    [
        (origin_mark(KEY), KEY),
        (f"cut by hand; {origin_mark(KEY)}.", KEY),
        (origin_mark(KEY[:-1]), None),
        ("made by somebody", None),
        (None, None),
    ],
)
def test_the_mark_is_read_back(comment: str | None, found: str | None, tmp_path: Path) -> None:
    with FilmWriter(tmp_path / "film.mp4", size=(WIDTH, HEIGHT), comment=comment) as writer:
        writer.write(pictures(0, 2))
        assert read_origin(writer.close()) == found
