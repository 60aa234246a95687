"""Conversions between samples, frames and blocks."""

import pytest

from liveavatar.timing import BLOCK_FRAMES, BLOCK_SAMPLES, BLOCK_SECONDS, SAMPLE_RATE, count_blocks, count_frames


@pytest.mark.parametrize(("num_samples", "frames"), [(0, 0), (1, 1), (640, 1), (641, 2), (16_000, 25), (16_001, 26)])
def test_count_frames(num_samples: int, frames: int) -> None:
    assert count_frames(num_samples) == frames


@pytest.mark.parametrize(("num_frames", "blocks"), [(0, 0), (1, 1), (12, 1), (13, 2), (48, 4), (49, 5)])
def test_count_blocks(num_frames: int, blocks: int) -> None:
    assert count_blocks(num_frames) == blocks


def test_a_block_lasts_as_long_in_every_unit() -> None:
    assert (BLOCK_FRAMES, BLOCK_SAMPLES, BLOCK_SECONDS) == (12, 7680, 0.48)
    assert round(BLOCK_SECONDS * SAMPLE_RATE) == BLOCK_SAMPLES
    assert count_frames(BLOCK_SAMPLES) == BLOCK_FRAMES
