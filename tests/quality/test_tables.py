"""Rows of frames and blocks, and the clock that joins picture and sound."""

import numpy as np
import pandas as pd
import pytest

from liveavatar.quality import sync
from liveavatar.quality.observe import Observation
from liveavatar.quality.tables import Clock, blocks_table, frames_table


@pytest.mark.parametrize(
    ("seconds", "frames", "ticks"),
    [
        pytest.param([0.0, 0.04, 0.08, 0.12], [0, 1, 2, 3], [0, 1, 2, 3], id="25 fps"),
        pytest.param([0.0, 0.08, 0.16], [0, 0, 1, 1, 2], [0, 2, 4], id="12.5 fps: each picture stays for two ticks"),
        pytest.param([0.0, 0.04, 0.16], [0, 1, 1, 1, 2], [0, 1, 4], id="two lost: the one before stays"),
        pytest.param([0.0, 0.039, 0.081], [0, 1, 2], [0, 1, 2], id="rounded time stamps"),
        pytest.param([0.0, 0.02, 0.04], [1, 2], [0, 0, 1], id="50 fps: half of the pictures"),
    ],
)
def test_clock(seconds: list[float], frames: list[int], ticks: list[int]) -> None:
    clock = Clock.of(np.array(seconds))
    assert clock.num_ticks == len(frames)
    assert clock.frame_of_tick.tolist() == frames
    assert clock.tick_of_frame.tolist() == ticks


def frames(num_frames: int) -> pd.DataFrame:
    """A table whose readings say the frame."""
    row = np.arange(float(num_frames))
    readings = ("openness", "envelope", "speed", "change", "sharpness_ratio", "texture_psnr", "identity")
    return pd.DataFrame(
        {"frame": range(num_frames), "seconds": row / 25, "block": np.arange(num_frames) // 12, "face_found": row < 18}
        | dict.fromkeys(readings, row)
    )


def test_a_frame_has_the_sound_of_its_time() -> None:
    seconds = [0.0, 0.04, 0.16]  # two pictures lost
    seen = Observation(seconds=seconds, openness=[0.1, float("nan"), 0.3])
    for name in ("presence", "mouth_width", "speed", "head_x", "head_y", "roll", "change", "luminance", "contrast"):
        setattr(seen, name, [0.0] * 3)
    for name in ("sharpness_ratio", "texture_psnr", "identity"):
        setattr(seen, name, [0.0] * 3)
    loudness = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    table = frames_table(seen, sync.Speech(loudness, 2 * loudness), Clock.of(np.array(seconds)))
    assert table["envelope"].tolist() == [0.0, 0.1, 0.4]
    assert table["vowel_envelope"].tolist() == [0.0, 0.2, 0.8]
    assert table["speech"].tolist() == [False, True, True]
    assert table["face_found"].tolist() == [True, False, True]
    assert table["block"].tolist() == [0, 0, 0]


def test_a_block_averages_its_frames_and_keeps_the_change_into_it() -> None:
    blocks = blocks_table(frames(30), [])
    assert blocks["num_frames"].tolist() == [12, 12, 6]
    assert blocks["start_s"].tolist() == pytest.approx([0, 0.48, 0.96])
    assert blocks["openness"].tolist() == [5.5, 17.5, 26.5]
    assert blocks["edge_change"].tolist() == [0, 12, 24]
    assert blocks["face_share"].tolist() == [1, 0.5, 0]
    assert "block_ms" not in blocks


@pytest.mark.parametrize(
    ("timings", "block_ms"),
    [
        pytest.param(
            [{"denoise_s": 0.3, "decode_s": 0.18}, {"denoise_s": 0.3, "decode_s": 0.181}], (480, 481), id="sum"
        ),
        pytest.param(
            [{"wall_ms": 480.0, "denoise_s": 9.0}, {"wall_ms": 481.0, "denoise_s": 9.0}], (480, 481), id="wall"
        ),
        pytest.param([{"index": 1, "wall_ms": 481.0}, {"index": 0, "wall_ms": 480.0}], (480, 481), id="by index"),
    ],
)
def test_a_block_that_takes_longer_than_it_plays_misses_its_deadline(
    timings: list[dict[str, float]], block_ms: tuple[float, float]
) -> None:
    blocks = blocks_table(frames(24), timings)
    assert blocks["block_ms"].tolist() == pytest.approx(block_ms)
    assert blocks["deadline_missed"].tolist() == [False, True]


def test_a_block_without_timings_stays_in_the_table() -> None:
    blocks = blocks_table(frames(24), [{"index": 1, "wall_ms": 20.0}])
    assert np.isnan(blocks["block_ms"][0])
    assert blocks["block_ms"][1] == 20
