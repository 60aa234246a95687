"""Several videos in one table: every video gets a row, and the worst exit code counts."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from flows.cli import evaluate
from flows.cli.evaluate import Report, evaluate_command
from liveavatar.errors import InputError

OPTIONS: dict[str, Any] = {
    "video": ["a.mp4", "b.mp4"], "image": ["p.png"], "audio": None, "limits": None, "docs": None,
    "against": None, "face": 0, "allow_unjudged": False, "table": None, "json": False,
}  # fmt: skip


def report(status: str) -> Report:
    checks = [{"name": "flicker", "status": status, "reason": "because"}, {"name": "spots", "status": "passed"}]
    return {"status": status, "headline": "" if status == "passed" else "it flickers", "checks": checks,
            "metrics": {"flicker": 0.5, "spots": None}, "reasons": {"spots": "no face"},
            "num_faces": 2, "face": 0}  # fmt: skip


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, str | None]]:
    """Verdicts by the name of the video; what is judged is noted with its portrait and folder of data docs."""
    seen: dict[str, tuple[str, str | None]] = {}

    def judge(_: object, video: str, portrait: str, rules: dict[str, Any], **__: object) -> Report:
        seen[video] = (portrait, rules["docs"])
        if video == "broken.mp4":
            raise InputError("broken.mp4 is no video")
        return report("failed" if video == "bad.mp4" else "passed")

    monkeypatch.setattr(evaluate, "isolated", judge)
    monkeypatch.setattr(evaluate, "decode_portrait", lambda path: None)
    return seen


@pytest.mark.parametrize(
    ("videos", "code"),
    [
        pytest.param(["a.mp4"], 0, id="one good"),
        pytest.param(["a.mp4", "b.mp4"], 0, id="all good"),
        pytest.param(["bad.mp4", "a.mp4"], 1, id="one failed"),
        pytest.param(["broken.mp4", "bad.mp4", "a.mp4"], 2, id="one is no video, and the others are judged"),
    ],
)
def test_the_worst_exit_code_counts(videos: list[str], code: int, judged: dict[str, tuple[str, str | None]]) -> None:
    assert evaluate_command({**OPTIONS, "video": videos}) == code
    assert list(judged) == videos


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_table_has_a_row_for_every_video(
    suffix: str, tmp_path: Path, judged: dict[str, tuple[str, str | None]]
) -> None:
    path = tmp_path / f"verdicts{suffix}"
    videos = ["a.mp4", "bad.mp4", "broken.mp4"]
    evaluate_command({**OPTIONS, "video": videos, "image": ["p.png", "q.png", "r.png"], "docs": "d", "table": path})
    table = pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
    assert table["video"].tolist() == videos
    assert table["status"].tolist() == ["passed", "failed", "unreadable"]
    assert table["failed"].fillna("").tolist() == ["", "flicker", ""]
    assert table["flicker"].fillna(-1).tolist() == [0.5, 0.5, -1]
    assert judged["bad.mp4"] == ("q.png", "d/002")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param({"image": ["p.png"] * 3}, "given 3 times for 2 videos", id="portraits that do not match"),
        pytest.param({"audio": "s.wav"}, "one sound cannot have driven 2 videos", id="one sound for two"),
        pytest.param({"table": "t.xlsx"}, ".csv or .parquet", id="another kind of table"),
        pytest.param({"table": "nowhere/t.csv"}, "a folder that is there", id="no such folder"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        evaluate_command({**OPTIONS, **given})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"against": "t.mp4"}, "--against t.mp4: one video cannot be the truth of 2", id="one truth"),
        pytest.param({"face": -1}, "--face -1: count the faces from 1", id="a face before the first"),
    ],
)
def test_options_that_cannot_hold_are_refused(
    options: dict[str, Any], message: str, judged: dict[str, tuple[str, str | None]]
) -> None:
    with pytest.raises(InputError, match=message):
        evaluate_command({**OPTIONS, **options})
    assert not judged


def test_a_video_of_two_faces_says_which_was_judged(
    judged: dict[str, tuple[str, str | None]], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate_command({**OPTIONS, "video": ["a.mp4"]})
    assert "the video shows 2 faces" in capsys.readouterr().out
