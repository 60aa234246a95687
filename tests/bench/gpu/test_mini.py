"""The embedded model on a GPU, dry on the CPU: both ways give the same latents but for rounding."""

import pytest
import torch

from liveavatar.bench.gpu.mini import distance, measure_mini

SIZE = (128, 128)


@pytest.mark.nightly
def test_both_ways_are_measured_and_compared() -> None:
    rows = measure_mini((SIZE,), 1, torch.device("cpu"), torch.float32)
    assert [(row["mode"], row["size"]) for row in rows] == [("plain", "128*128"), ("recorded", "128*128")]
    assert rows[0]["distance"] == 0
    assert 0 < rows[1]["distance"] < 1e-3
    assert all(row["fps"] > 0 for row in rows)


def test_distance_is_relative() -> None:
    assert distance(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == pytest.approx(0.1)
