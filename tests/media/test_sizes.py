"""Sizes and crops of the released pipeline: multiples of 64 within the area, and black where the picture ends."""

from pathlib import Path

import numpy as np
import pytest

from liveavatar.media.sizes import STEP, released_crop, released_size

ROWS = [row.split("\t") for row in Path(__file__).with_name("released_sizes.tsv").read_text().splitlines()[1:]]


def test_sizes_are_those_of_the_released_pipeline() -> None:
    assert len(ROWS) > 10
    for in_w, in_h, size, out_w, out_h, *_ in ROWS:
        width, height = (int(side) for side in size.split("*"))
        assert released_size(int(in_w), int(in_h), width * height) == (int(out_w), int(out_h)), (in_w, in_h, size)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (63, 4000), (4000, 63), (1919, 1081), (384, 256)])
@pytest.mark.parametrize("area", [384 * 256, 704 * 384, 720 * 1280])
def test_any_picture_gets_a_size_within_the_area(width: int, height: int, area: int) -> None:
    out_w, out_h = released_size(width, height, area)
    assert (out_w % STEP, out_h % STEP) == (0, 0)
    assert min(out_w, out_h) >= STEP
    if max(width, height) / min(width, height) < 3:
        assert out_w * out_h <= area


@pytest.mark.parametrize(
    ("picture", "video", "black_rows", "black_columns"),
    [
        pytest.param((128, 128), (128, 128), 0, 0, id="the picture itself"),
        pytest.param((256, 128), (128, 128), 0, 0, id="the middle of a wide one"),
        pytest.param((128, 192), (128, 256), 64, 0, id="bars above and below"),
        pytest.param((192, 128), (256, 128), 0, 64, id="bars at the sides"),
    ],
)
def test_crops(picture: tuple[int, int], video: tuple[int, int], black_rows: int, black_columns: int) -> None:
    crop = released_crop(np.full((picture[1], picture[0], 3), 255, np.uint8), *video)
    assert crop.shape == (video[1], video[0], 3)
    black = crop.max(2) == 0
    assert (black.all(1).sum(), black.all(0).sum()) == (black_rows, black_columns)


def test_a_crop_is_the_middle() -> None:
    columns = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (100, 200, 3))
    assert np.array_equal(released_crop(columns, 100, 100), columns[:, 50:150])
