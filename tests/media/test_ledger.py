"""Digests of a growing video: a damaged segment ends what can be resumed, in the video and in its live output."""

from pathlib import Path

import numpy as np
import pytest

from liveavatar.media.film import FilmWriter
from liveavatar.media.ledger import SegmentLedger

SIZE = (64, 48)
SEGMENT = 24  # frames


def writer(folder: Path) -> FilmWriter:
    return FilmWriter(
        folder / "film.mp4", size=SIZE, segment_frames=SEGMENT, live_dir=folder / "live", ledger=folder / "segments"
    )


def frames(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, SIZE[1], SIZE[0], 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "position", "whole"),
    [
        pytest.param("segments", None, 3, id="nothing"),
        pytest.param(".film.partial.mp4", 0.5, 1, id="the video"),
        pytest.param(".film.partial.mp4", 0.0, 0, id="its header"),
        pytest.param("live/segment_000002.m4s", 0.5, 2, id="a live segment"),
        pytest.param("live/init.mp4", 0.5, 0, id="the live header"),
        pytest.param("segments", 0.5, 1, id="the ledger"),
    ],
)
def test_frames_before_the_damage_can_be_resumed(name: str, position: float | None, whole: int, tmp_path: Path) -> None:
    with writer(tmp_path) as video:
        video.write(frames(3 * SEGMENT))
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    if position is not None:
        data[int(position * len(data))] ^= 1
        path.write_bytes(data)
    resumed = writer(tmp_path)
    assert resumed.durable_frames == whole * SEGMENT
    with resumed:
        resumed.resume_at(whole * SEGMENT)
        resumed.write(frames(3 * SEGMENT)[whole * SEGMENT :])
    assert writer(tmp_path).durable_frames == 3 * SEGMENT, "what was written again is whole"


def test_a_changed_number_of_frames_is_noticed(tmp_path: Path) -> None:
    with writer(tmp_path) as video:
        video.write(frames(2 * SEGMENT))
    ledger = tmp_path / "segments"
    ledger.write_text(ledger.read_text().replace('"frames": 24', '"frames": 25', 1))
    assert writer(tmp_path).durable_frames == 0


def test_a_finished_video_needs_no_ledger(tmp_path: Path) -> None:
    with writer(tmp_path) as video:
        video.write(frames(SEGMENT + 1))
        video.close()
    assert not (tmp_path / "segments").exists()


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b'{"frames": 12, "size": 99999999999999999999, "sha256": "", "live": ""}', id="a huge size"),
        pytest.param(b'{"frames": 12, "size": -1, "sha256": "", "live": ""}', id="a negative size"),
        pytest.param(b'{"frames": "12", "size": 4, "sha256": "", "live": ""}', id="a word for a number"),
        pytest.param(b"[" * 100_000, id="nested without end"),
        pytest.param(b"\xff", id="no text"),
    ],
)
def test_a_damaged_line_is_no_segment(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"film")
    (tmp_path / "segments").write_bytes(line + b"\n")
    assert SegmentLedger(tmp_path / "segments").whole(tmp_path / "film.mp4", []) == []
