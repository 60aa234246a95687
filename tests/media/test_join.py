"""Segments of a video join without a pulse in what stands still, and without ghosts of what moves."""

from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from liveavatar.media.ffmpeg import read_frames
from liveavatar.media.film import SEGMENT_FRAMES, FilmWriter
from liveavatar.media.join import FADE_FRAMES, SegmentJoin, coding_error, last_frame
from liveavatar.paths import REPO_ROOT

FILM = REPO_ROOT / "data" / "evaluation" / "05.film.mkv"
FRAMES = 3 * SEGMENT_FRAMES


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """A rendered head before a background that stands still: uint8 [T, H, W, 3]."""
    return np.stack([frame.rgb for frame in islice(read_frames(FILM), FRAMES)])


def written(path: Path, frames: np.ndarray) -> np.ndarray:
    """Write a video and read it back: uint8 [T, H, W, 3]."""
    with FilmWriter(path, size=(frames.shape[2], frames.shape[1])) as film:
        film.write(frames)
        film.close()
    return np.stack([frame.rgb for frame in read_frames(path)])


def border_change(shown: np.ndarray, frames: np.ndarray) -> float:
    """Measure how far grey values change where a segment begins and nothing moves nearby, in levels of 255."""
    still = ndimage.maximum_filter(np.ptp(frames.astype(np.float32), axis=0).max(2), 17) < 3
    assert still.mean() > 0.1
    changes = np.abs(np.diff(shown[:, still].astype(np.float32).mean(2), axis=0)).mean(1)
    return float(changes[SEGMENT_FRAMES - 1 :: SEGMENT_FRAMES].mean())


def test_what_stands_still_does_not_pulse(frames: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = written(tmp_path / "joined.mp4", frames)
    monkeypatch.setattr(SegmentJoin, "frame", lambda self, rgb, index: rgb)
    plain = written(tmp_path / "plain.mp4", frames)
    assert border_change(joined, frames) < 0.2
    assert border_change(plain, frames) > 0.35, "the measure sees a pulse"


def test_the_picture_keeps_its_quality(frames: np.ndarray, tmp_path: Path) -> None:
    error = written(tmp_path / "joined.mp4", frames).astype(np.float32) - frames
    psnr = [10 * np.log10(255**2 / np.square(block).mean()) for block in np.split(error, 3)]
    assert min(psnr) > 37
    assert max(psnr) - min(psnr) < 1.5, "segments after the first are as good as the first"


def test_motion_leaves_no_ghost() -> None:
    before = np.full((20, 40, 3), 50, np.uint8)
    after = before.copy()
    before[:, 10:14], after[:, 12:16] = 200, 200
    assert not coding_error(before, after)[:, 8:18].any()


def test_a_small_error_is_carried_and_fades(tmp_path: Path) -> None:
    rgb = np.full((96, 128, 3), 100, np.uint8)
    segment = tmp_path / "segment.mp4"
    written(segment, rgb[None] + np.uint8(3))
    join = SegmentJoin()
    join.begin(segment.read_bytes(), (128, 96), 1)
    coded = [join.frame(rgb, index)[8, 8, 0] for index in range(FADE_FRAMES + 1)]
    assert abs(int(coded[0]) - 103) <= 1
    assert coded[-1] == 100
    assert all(a >= b for a, b in pairwise(coded))


def test_the_last_frame_is_what_a_player_shows(frames: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "one.mp4"
    shown = written(path, frames[:30])
    last = last_frame(path.read_bytes(), (frames.shape[2], frames.shape[1]), 30).astype(float)
    assert np.abs(last - shown[-1]).mean() < 2
    assert np.abs(last - shown[-1]).mean() < np.abs(last - shown[-3]).mean()
