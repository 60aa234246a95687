"""Both parts of the stage run on every rank's whole networks; the 14B has a command line of its own."""

import argparse
import json
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from liveavatar.config import ModelConfig, shifted_sigmas
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


def test_the_student_learns_the_noise_levels_it_is_asked_for(
    taught: ToyRun, rank: runtime.TrainRank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[float | None, tuple[float, ...]] = {}

    def build(args: argparse.Namespace, rank: runtime.TrainRank, cfg: ModelConfig, student: object) -> NoReturn:
        seen[args.shift] = cfg.sigmas[4]
        raise KeyboardInterrupt

    monkeypatch.setattr(distill, "build_trainer", build)
    for shift in (None, 7.0):
        with pytest.raises(KeyboardInterrupt):
            distill.train(taught.args(out=tmp_path, shift=shift), rank)
    assert seen == {None: shifted_sigmas(4, 5.0), 7.0: shifted_sigmas(4, 7.0)}


def test_the_preset_chooses_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        distill.main(["--help"])
    assert "--seconds_dmd" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        distill.main(["--preset", "live-avatar-14b", "--help"])
    assert "--lora_rank" in capsys.readouterr().out
