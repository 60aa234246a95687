"""The page of a regression: strips of pictures, heat maps, and what it says of each job."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from flows.regression_page import HEIGHT, PICTURES, heat_map, strip, write_page
from tests.media.videos import HEIGHT as VIDEO_HEIGHT
from tests.media.videos import WIDTH, write


def as_webp(pixels: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format="webp", lossless=True)
    return data.getvalue()


def test_a_strip_spans_the_video(tmp_path: Path) -> None:
    with Image.open(io.BytesIO(strip(write(tmp_path / "a.mp4", 24)))) as picture:
        assert picture.size == (PICTURES * round(HEIGHT * WIDTH / VIDEO_HEIGHT), HEIGHT)


def test_heat_shows_where_pictures_differ() -> None:
    theirs = np.full((32, 48, 3), 100, np.uint8)
    ours = theirs.copy()
    ours[:, 24:] += 8
    heat = np.asarray(Image.open(io.BytesIO(heat_map(as_webp(ours), as_webp(theirs)))))
    assert not heat[:, :24].any()
    assert (heat[:, 24:] == [192, 0, 0]).all(), "a quarter of the scale: red"
    larger = np.full((64, 96, 3), 100, np.uint8)
    assert not np.asarray(Image.open(io.BytesIO(heat_map(as_webp(theirs), as_webp(larger))))).any()


def test_the_page_says_what_failed_and_nothing_becomes_markup(tmp_path: Path) -> None:
    cases = [
        {"job": "<b>a", "name": "latents", "passed": True, "how": "bit by bit", "detail": "equal"},
        {"job": "c", "name": "verdict", "passed": False, "how": "equal", "detail": "failed, baseline passed"},
    ]
    picture = as_webp(np.zeros((8, 8, 3), np.uint8))
    write_page(tmp_path / "a" / "page.html", cases, {"c": (picture, None)})
    page = (tmp_path / "a" / "page.html").read_text()
    assert "<title>regression: 1 of 2 comparisons failed</title>" in page
    assert ("&lt;b&gt;a" in page, "<b>a" in page, page.count("<img")) == (True, False, 1)
    assert "no pictures are stored" in page
    write_page(tmp_path / "page.html", cases[:1], {})
    assert "regression: passed" in (tmp_path / "page.html").read_text()
