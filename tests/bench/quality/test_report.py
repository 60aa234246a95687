"""Numbers, tables and contact sheets of the quality benchmark."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from liveavatar.bench.quality import report
from liveavatar.bench.quality.videos import Video


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (3, "3"), (3.0, "3"), (0.12345, "0.123"), (-9.9996, "-10.000"), (10.456, "10.46"), (-0.5, "-0.500")],
)
def test_number(value: float | None, text: str) -> None:
    assert report.number(value) == text


def test_columns_are_padded_to_their_widest_cell() -> None:
    assert report.aligned([("a", "bbb", "c"), ("aaaa", "b", "")]) == ["a     bbb  c", "aaaa  b"]


def check(name: str, ok: bool | None, goal: bool | None, value: float | None, reason: str = "") -> dict[str, Any]:
    return {"name": name, "ok": ok, "goal_reached": goal, "value": value, "limit": 0.93, "goal": 0.97, "sense": "least",
            "reason": reason, "what": f"what {name} is"}  # fmt: skip


def made_up() -> dict[str, Any]:
    """A result with one measure of every kind."""
    measures: dict[str, Any] = dict.fromkeys(report.OTHERS)
    words = {"words": "red", "effect": 3.0, "asked": 2.0, "true": 9.0, "unit": "grey", "seen": False}
    noisy = {"sync_error_frames": 1.0, "av_correlation": 0.5, "silent_lip": None, "openness_corr": 0.5}
    recording = {
        "recording": "a.wav", "portrait": "clip 00", "av_offset_frames": 0, "sync_error_frames": 0.5, "lip_sync": None,
        "silent_lip": None, "identity_min": 0.9, "note": "quiet", "reasons": {"lip_sync": "too short"},
    }  # fmt: skip
    return measures | {
        "checks": [
            check("reached", True, True, 0.98), check("kept", True, False, 0.94),
            check("lost", False, False, 0.5, "why"), check("absent", None, None, None, "no face"),
        ],
        "truth": {"kept": 0.99, "lag_frames": 0.0}, "lag_frames": 2.0, "missed": ["lost"], "model": "m", "steps": 4,
        "clips": 1, "device": "cpu", "dtype": "float32", "seconds": 5.0, "date": "2026-01-01",
        "per_clip": [{"clip": "00", "openness_corr": 0.5}], "prompt_words": [words],
        "noisy_voice": [noisy | {"sound": "noisy"}, noisy | {"sound": "noisy", "openness_corr": 0.7}],
        "recordings": [recording],
    }  # fmt: skip


def rows(lines: list[str]) -> dict[str, list[str]]:
    """Cells of each line, by its first one."""
    found = [[cell.strip() for cell in line.replace("|", "  ").split("  ") if cell.strip()] for line in lines]
    return {cells[0]: cells[1:] for cells in found if cells}


def test_lines_give_a_verdict_on_every_goal() -> None:
    shown = report.lines(made_up())
    table = rows(shown)
    assert table["reached"] == ["0.980", "-", "≥ 0.93", "≥ 0.97", "goal"]
    assert table["kept"] == ["0.940", "0.990", "≥ 0.93", "≥ 0.97", "ok"]
    assert table["lost"][-1] == "MISSED (why)"
    assert table["absent"] == ["-", "-", "≥ 0.93", "≥ 0.97", "not measured: no face"]
    assert table["lag_frames"] == ["2", "0"]
    assert table["red"][-1] == "NO"
    assert table["noisy"][0] == "0.600", "the mean over clips"
    assert shown[-1] == "m, 4 steps, 1 clips; limits missed: lost"


def test_sections_without_rows_are_left_out() -> None:
    empty = made_up() | {"prompt_words": [], "noisy_voice": [], "recordings": [], "missed": []}
    assert report.lines(empty)[-1].endswith("limits missed: none")
    assert "phrase changed" not in "\n".join(report.lines(empty))
    page = report.markdown(empty)
    assert "## Clip by clip" in page
    assert not any(title in page for title in ("## Words", "## A noisy", "## Natural"))


def test_page_has_the_same_numbers() -> None:
    page = report.markdown(made_up())
    table = rows(page.splitlines())
    assert page.startswith("# Quality of m at 4 steps, 2026-01-01\n")
    assert table["lost"] == ["0.500", "-", "≥ 0.93", "≥ 0.97", "**no**", "no", "what lost is (why)"]
    assert table["00"][0] == "0.500"
    assert table["a.wav"] == ["clip 00", "0", "0.500", "-", "-", "0.900", "quiet"], "reasons are not shown"


@pytest.mark.parametrize("mouth", [(150.0, 100.0), (0.0, 0.0), (299.0, 199.0)], ids=["inside", "corner", "far corner"])
def test_contact_sheet_shows_each_video_and_its_mouth(
    mouth: tuple[float, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.zeros((100, 200, 300, 3), np.uint8)
    x, y = (int(c) for c in mouth)
    frames[:, max(0, y - 4) : y + 4, max(0, x - 4) : x + 4] = 255
    monkeypatch.setattr(report, "video_frames", lambda _: frames)
    report.contact_sheet([Video(Path("a")), Video(Path("b"))], tmp_path / "sheet.jpg", np.array(mouth))
    sheet = np.asarray(Image.open(tmp_path / "sheet.jpg"))
    width, tall = 12 * 150, round(96 * 12 * 150 / (12 * 96))
    assert sheet.shape == (2 * (100 + tall), width, 3)
    for top in (100, 200 + tall):
        assert sheet[top : top + tall].max() > 200, "the mouth is in the cut"


def test_report_shows_the_videos_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[list[str]] = []
    monkeypatch.setattr(
        report, "contact_sheet", lambda videos, path, mouth: shown.append([f.path.stem for f in videos])
    )
    for name in ("truth", "steps4"):
        (tmp_path / f"{name}.mp4").touch()
    true: Any = SimpleNamespace(
        scene=SimpleNamespace(folder=tmp_path), clip=SimpleNamespace(info=SimpleNamespace(name="00")),
        labels=SimpleNamespace(mouth=np.zeros(2)),
    )  # fmt: skip
    report.write_report(tmp_path, made_up(), [true], 4)
    assert shown == [["truth", "steps4"]]
    assert (tmp_path / "quality_m_2026-01-01.md").read_text() == report.markdown(made_up())
    assert (tmp_path / "quality.json").is_file()
