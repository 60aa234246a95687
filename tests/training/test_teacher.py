"""The teacher learns on the toy corpus, resumes exactly, and starts from a model directory."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from liveavatar.checkpoints.directory import read_config
from liveavatar.checkpoints.load import load_model, save_model
from liveavatar.config import FROM_CAMERA
from liveavatar.errors import CheckpointError
from liveavatar.training import export, runtime, teacher
from tests.training.conftest import ToyRun


@pytest.mark.nightly
def test_teacher_learns(encoded: ToyRun, rank: runtime.TrainRank) -> None:
    trainer = teacher.TeacherTrainer(encoded.args(), rank, read_config(encoded.run))
    batch = trainer.data.sampler.sample(2)
    trainer.data.sampler.sample = lambda _: batch  # type: ignore[method-assign]
    losses = [float(trainer.train_step(0.3)["loss"]) for _ in range(50)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10]), losses
    assert trainer.net.dit.cond_encoder.weight.any(), "nothing of the head's pose was learned"
    noise, sigma = torch.randn(batch.latents.shape), torch.full((2, 3), 0.9)
    with torch.no_grad():
        told, free = (trainer.net.flow(noise, sigma, replace(batch, pose=p)) for p in (batch.pose, None))
    assert (told - free).abs().max() > 1e-3


def test_teacher_resumes(taught: ToyRun, rank: runtime.TrainRank) -> None:
    cfg = read_config(taught.run)
    path = taught.run / "teacher.pt"
    a, b = (teacher.TeacherTrainer(taught.args(), rank, cfg) for _ in range(2))
    batch = a.data.sampler.sample(2)
    for trainer in (a, b):
        trainer.load(runtime.load_checkpoint(path, rank.device))
        trainer.data.sampler.sample = lambda _: batch  # type: ignore[method-assign]
        trainer.train_step(0.5)
    assert all(torch.equal(x, y) for x, y in zip(a.net.parameters(), b.net.parameters(), strict=True))
    assert all(torch.equal(a.average.weights[n], w) for n, w in b.average.weights.items())


def test_teacher_goes_on_from_a_model_that_was_not_told_its_eyes(
    taught: ToyRun, rank: runtime.TrainRank, tmp_path: Path
) -> None:
    export.export_run(taught.run, tmp_path / "model", export.ExportSettings(weights="teacher"))
    path = tmp_path / "model" / "config.json"
    before = load_model(tmp_path / "model", "cpu", torch.float32, parts=("dit", "text"))
    old = replace(
        before.config, dit=replace(before.config.dit, cond_dim=4), lids_conditioned=False, gaze_conditioned=False
    )
    weights = before.dit.state_dict()
    told = weights["cond_encoder.weight"]
    save_model(tmp_path / "model", old, {"dit": weights | {"cond_encoder.weight": told[:, :4].contiguous()}})
    assert read_config(path.parent).dit.cond_dim == 4
    started = teacher.TeacherTrainer(taught.args(init=path.parent), rank, read_config(taught.run))
    weight = started.net.dit.cond_encoder.weight
    assert torch.equal(weight[:, :4], told[:, :4])
    assert told[:, 4:].flatten(2).any(2).all(), "the eyes were told, and something was learned of them"
    assert not weight[:, 4:].any()


def test_teacher_goes_on_from_a_model(
    taught: ToyRun, rank: runtime.TrainRank, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    export.export_run(taught.run, tmp_path / "model", export.ExportSettings(weights="teacher"))
    cfg = read_config(taught.run)
    started = teacher.TeacherTrainer(taught.args(init=tmp_path / "model"), rank, cfg)
    before = runtime.load_checkpoint(taught.run / "teacher.pt", rank.device)["average"]
    for name, weight in started.net.named_parameters():
        torch.testing.assert_close(weight, before[name], atol=2e-3, rtol=2e-3, msg=name)  # the model is in fp16
    assert "head angles" not in caplog.text
    teacher.TeacherTrainer(taught.args(init=tmp_path / "model"), rank, replace(cfg, pose_origin=FROM_CAMERA))
    assert "counts head angles from the portrait, this run from the camera" in caplog.text
    wider = replace(cfg, dit=replace(cfg.dit, ffn_dim=2 * cfg.dit.ffn_dim))
    with pytest.raises(CheckpointError, match="other sizes"):
        teacher.TeacherTrainer(taught.args(init=tmp_path / "model"), rank, wider)
