"""The table of portraits and their contact sheets."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from liveavatar.bench.quality.portrait_measures import PortraitVideo
from liveavatar.bench.quality.portrait_report import portrait_lines, portrait_page, portrait_sheet, write_portraits
from liveavatar.face.landmarks import INNER_LIPS, LEFT_EYE_OUTER, LIDS, RIGHT_EYE_OUTER, Face

ROW = {
    **{"picture": "ann.png", "size": "512*512", "verdict": "will speak", "speaks": True, "av_offset_frames": 0},
    **{"sync_error_frames": 0.25, "openness_range": 0.21, "bilabial_gap": 0.012, "bilabials_shut": 0.75},
    **{"likeness": 0.91, "identity_min": 0.884, "energy_face": 0.77, "energy_first": 0.98, "fps": 11.5, "note": ""},
}
MUTE = {
    **ROW, "picture": "bob.png", "verdict": None, "speaks": False, "sync_error_frames": None, "note": "does not move",
}  # fmt: skip
RESULT: dict[str, Any] = {
    **{"model": "mini", "date": "2026-11-29", "audio": "speech.wav", "audio_seconds": 6.0, "steps": 4},
    **{"framing": "default", "device": "cpu", "dtype": "bfloat16", "seconds": 61.0, "speaking": 1, "worst": "bob.png"},
    "portraits": [ROW, MUTE],
}


def test_the_table_names_every_picture_and_the_worst(tmp_path: Path) -> None:
    shown = portrait_lines(RESULT)
    assert shown[1].split()[:8] == ["ann.png", "512*512", "will", "speak", "yes", "0", "0.250", "0.210"]
    assert "does not move" in shown[2]
    assert shown[-1] == "1 of 2 speak in sync; worst: bob.png"
    rows = [line for line in portrait_page(RESULT).splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1, "as many cells as headings"
    assert "| bob.png | 512*512 | - | NO | 0 | - |" in rows[-1]
    write_portraits(tmp_path, RESULT)
    assert json.loads((tmp_path / "portraits.json").read_text()) == RESULT
    assert (tmp_path / "portraits_mini_2026-11-29.md").read_text() == portrait_page(RESULT)


def face(gap: float, lids: float) -> Face:
    points = np.zeros((478, 2), np.float32)
    points[[RIGHT_EYE_OUTER, LEFT_EYE_OUTER]] = [[30, 40], [70, 40]]
    for pairs, middle, height in ((INNER_LIPS, 90, gap), (LIDS, 40, lids)):
        for up, down in pairs:
            points[[up, down]] = [[50, middle - height / 2], [50, middle + height / 2]]
    return Face(points, 1.0)


@pytest.mark.parametrize("found", [True, False], ids=["a face", "no face"])
def test_a_sheet_shows_rest_speech_and_lids_with_mouth_and_eyes_below(found: bool, tmp_path: Path) -> None:
    frames = np.stack([np.full((120, 100, 3), 10 * t, np.uint8) for t in range(1, 7)])
    faces: list[Face | None] = [None, face(4, 5), face(0, 5), face(10, 5), face(20, 5), face(6, 0)]
    picture = np.full((120, 100, 3), 200, np.uint8)
    film = PortraitVideo(Path(), picture, frames, face(2, 5) if found else None, faces)
    path = tmp_path / "sheet.png"
    portrait_sheet(film, path)
    assert path.is_file() == found
    if found:
        sheet = np.asarray(Image.open(path))
        width = round(3 * 1.4 * 40)
        assert sheet.shape == (round(1.2 * width) + 2 * 108, 6 * width, 3)
        middle = [sheet[row, width // 2 :: width, 0].tolist() for row in (50, -160, -50)]
        assert middle == [[200, 20, 30, 40, 50, 60]] * 3, "picture, first face, closest, half, widest, lids"
