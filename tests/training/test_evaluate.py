"""Candidates are measured on held-out clips and the chosen one is exported."""

import json
from pathlib import Path

import pytest
import torch

from liveavatar.checkpoints.load import load_model
from liveavatar.config import FROM_PORTRAIT
from liveavatar.training import evaluate, export, runtime
from tests.training.conftest import ToyRun


def test_evaluation_and_export(taught: ToyRun, tmp_path: Path) -> None:
    args = taught.args(data=taught.clips, run=taught.run, out=tmp_path, limit=1, blocks=2, steps=[4])
    result = evaluate.evaluate(args)
    assert result["chosen"] == "teacher"
    rows = json.loads((tmp_path / "evaluation.json").read_text())["rows"]
    assert rows["truth"]["energy"] == pytest.approx(1.0, abs=0.02)
    assert {"truth", "autoencoder", "teacher@4", "teacher@4+pose", "teacher@20"} <= rows.keys()
    assert rows["teacher@4"] != rows["teacher@4+pose"]
    assert rows["truth"]["texture_psnr"] > 60 > rows["autoencoder"]["texture_psnr"]
    assert (tmp_path / "sheet_frames_0.jpg").is_file()
    export.export_run(taught.run, tmp_path / "model")
    model = load_model(tmp_path / "model", "cpu", torch.float32)
    assert model.config.vae.std != (1.0,) * 8, "the measured latent statistics are part of the model"
    assert model.config.pose_guided
    assert model.config.lids_conditioned
    assert model.config.gaze_conditioned
    assert model.config.pose_origin == FROM_PORTRAIT
    saved = runtime.load_checkpoint(taught.run / "teacher.pt", torch.device("cpu"))["average"]
    torch.testing.assert_close(model.dit.head.head.weight, saved["dit.head.head.weight"], atol=1e-3, rtol=1e-3)
    assert all(any(name.startswith(part) for name in saved) for part in export.EMBEDDINGS)
