"""Distance of live features from a file's: nearer with a longer window, and written into a report."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from liveavatar.bench import live_speech
from liveavatar.bench.live_speech import WindowRow, Yardsticks, compare, distance, load_track, page, random_network
from tests.released import SCALED, SPEECH_NETWORK

NETWORK: dict[str, Any] = {**SPEECH_NETWORK, "num_conv_pos_embeddings": 32}


def test_a_distance_is_a_share_of_what_features_vary() -> None:
    whole = torch.randn(3, 8, 500, generator=torch.Generator().manual_seed(0))
    mean = whole.mean(2, keepdim=True)
    assert distance(whole, whole, mean) == 0
    assert distance(mean.expand_as(whole), whole, mean) == pytest.approx(1)
    assert distance(whole + 5 * torch.ones(8, 1), whole + 5, mean + 5) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("sharpness", [1.0, live_speech.SHARP], ids=["even attention", "sharp attention"])
def test_longer_windows_come_nearer_to_the_whole_track(sharpness: float) -> None:
    windows = ((1.0, 0.16), (6.0, 0.16), (6.0, 0.96))
    rows, other = compare(random_network(NETWORK, sharpness), load_track(10.0), windows, SCALED.speech)
    far, near, nearest = (row.distance for row in rows)
    assert nearest <= near < far
    assert near < other.neighbours, "nearer than the frame before"
    assert other.clock > 0
    assert all(row.block_ms > 0 for row in rows)


def test_the_report_has_a_table_a_network(tmp_path: Path) -> None:
    row = WindowRow(window_s=8.0, lookahead_s=0.32, distance=0.1234, block_ms=56.7)
    text = page({"random weights": ([row], Yardsticks(neighbours=0.5, clock=0.25))}, "cpu")
    assert "## random weights" in text
    assert "| 8 | 0.32 | 0.123 | 57 |" in text
    assert "0.500" in text
    assert "0.250" in text


def test_the_time_of_a_block_is_measured_with_a_window_of_each_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live_speech, "XLSR", {**NETWORK, "num_hidden_layers": 1})
    monkeypatch.setattr(live_speech, "WINDOWS", ((1.0, 0.16), (2.0, 0.16), (2.0, 0.32)))
    monkeypatch.setattr(live_speech, "WARM_BLOCKS", 0)
    live_speech.main(["--times", "--layers", "1", "--blocks", "1", "--out", str(tmp_path)])
    (report,) = tmp_path.glob("live_speech_times_*.json")
    rows = json.loads(report.read_text())["rows"]
    assert [row["window_s"] for row in rows] == [1.0, 2.0]
    assert all(0 < row["p50_ms"] <= row["p99_ms"] for row in rows)
    assert "| 2 | 1 |" in capsys.readouterr().out
