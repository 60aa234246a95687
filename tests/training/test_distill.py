"""Both parts of the stage run on every rank's whole networks; the 14B has a command line of its own."""

import json
from pathlib import Path

import pytest
import torch

from liveavatar.training import distill, runtime
from tests.training.conftest import ToyRun


def test_parts_are_trained_saved_and_not_trained_again(taught: ToyRun, rank: runtime.TrainRank, tmp_path: Path) -> None:
    options = {"out": tmp_path, "seconds_regression": 1e-3, "seconds_dmd": 1e-3, "resume": True, "log_every": 1}
    distill.train(taught.args(**options), rank)
    saved = runtime.load_checkpoint(tmp_path / "student.pt", rank.device)
    assert saved.keys() == {"regression", "dmd"}
    distill.train(taught.args(**options), rank)
    again = runtime.load_checkpoint(tmp_path / "student.pt", rank.device)
    assert all(torch.equal(again["dmd"][n], w) for n, w in saved["dmd"].items())
    rows = [json.loads(line) for line in (tmp_path / "distill.jsonl").read_text().splitlines()]
    assert [row["part"] for row in rows] == ["regression", "dmd"]


def test_the_preset_chooses_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        distill.main(["--help"])
    assert "--seconds_dmd" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        distill.main(["--preset", "live-avatar-14b", "--help"])
    assert "--lora_rank" in capsys.readouterr().out
