"""Fine-tuning follows the truth in eyes and mouth where conditions tell it, and stays what it was elsewhere."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from liveavatar.checkpoints.directory import read_config
from liveavatar.pose.track import HEAD
from liveavatar.training import export, finetune, runtime
from liveavatar.training.batch import Window
from liveavatar.training.flow import drop_conditions, free_head
from tests.training.conftest import ToyRun


@pytest.fixture(scope="module")
def model(taught: ToyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory to start from."""
    folder = tmp_path_factory.mktemp("finetune") / "model"
    export.export_run(taught.run, folder, export.ExportSettings(weights="teacher", gaze=False))
    return folder


def toy_trainer(taught: ToyRun, rank: runtime.TrainRank, model: Path, **options: object) -> finetune.FinetuneTrainer:
    return finetune.build_trainer(taught.args(init=model, **options), rank, read_config(taught.run))


def window_of(trainer: finetune.FinetuneTrainer) -> Window:
    """A window whose backdrop weighs 1, its face 1.5, half a cell of an eye 2.5 and the mouth 5."""
    window = trainer.data.sampler.sample(2)
    weights = torch.ones_like(window.weights)
    weights[..., 1, 1], weights[..., 2, 1], weights[..., 3, 1] = 1.5, 2.5, 5.0
    return replace(window, weights=weights / weights.mean(), bound=None)


def test_cells_of_eyes_and_mouth_must_equal_the_truth(taught: ToyRun, rank: runtime.TrainRank, model: Path) -> None:
    window = window_of(toy_trainer(taught, rank, model))
    share = finetune.truth_share(window, window)
    assert share.shape == window.weights.shape
    inside = torch.zeros_like(share)
    inside[..., 2, 1] = inside[..., 3, 1] = 1
    torch.testing.assert_close(share, inside)


@pytest.mark.parametrize("missing", ["speech", "pose", "light"])
def test_nothing_must_equal_a_truth_that_the_conditions_do_not_tell(
    taught: ToyRun, rank: runtime.TrainRank, model: Path, missing: str
) -> None:
    window = window_of(toy_trainer(taught, rank, model))
    features, pose = window.features.clone(), window.pose
    assert pose is not None
    if missing == "speech":
        features[0] = 0
    if missing == "pose":
        pose = torch.cat((free_head(pose)[:1], pose[1:]))
    bound = torch.tensor([missing == "light", False])
    share = finetune.truth_share(replace(window, bound=bound), replace(window, features=features, pose=pose))
    assert not share[0].any()
    assert share[1].any()


def test_the_model_before_sees_no_gaze(taught: ToyRun, rank: runtime.TrainRank, model: Path) -> None:
    window = window_of(toy_trainer(taught, rank, model))
    seen = finetune.without_gaze(window)
    assert window.pose is not None
    assert seen.pose is not None
    assert torch.equal(seen.pose[:, : HEAD + 1], window.pose[:, : HEAD + 1])
    assert not seen.pose[:, HEAD + 1 :].any()
    assert finetune.without_gaze(replace(window, pose=None)).pose is None


def test_it_comes_nearer_to_the_truth_inside_and_stays_outside(
    taught: ToyRun, rank: runtime.TrainRank, model: Path
) -> None:
    trainer = toy_trainer(taught, rank, model, muon=0.01, adamw=2e-3, face_loss=0.0)
    window = window_of(trainer)
    trainer.data.sampler.sample = lambda _: window  # type: ignore[method-assign]
    share, noise = finetune.truth_share(window, window), torch.randn(window.latents.shape)
    sigma = torch.ones(2, window.latents.shape[2] // 3)

    def distances() -> tuple[float, float]:
        clean = noise - trainer.student.flow(noise, sigma, window)
        before = noise - trainer.before.flow(noise, sigma, finetune.without_gaze(window))
        inside, outside = (clean - window.latents).square() * share, (clean - before).square() * (1 - share)
        return float(inside.mean() / share.mean()), float(outside.mean() / (1 - share).mean())

    first, _ = distances()
    for _ in range(30):
        trainer.train_step(0.3)
    inside, outside = distances()
    assert inside < 0.8 * first
    assert outside < 0.5 * inside


def test_weights_are_saved_and_exported(taught: ToyRun, rank: runtime.TrainRank, model: Path, tmp_path: Path) -> None:
    options = {"seconds": 1e-3, "log_every": 1, "save_every": 0.0, "shift": 7.0}
    finetune.train(taught.args(init=model, out=tmp_path, **options), rank)
    saved = runtime.load_checkpoint(tmp_path / "student.pt", rank.device)
    before = export.avatar_weights(model, read_config(taught.run).dit.cond_dim)
    assert saved["finetune"].keys() == before.keys()
    assert any(not torch.equal(before[n], w) for n, w in saved["finetune"].items())
    assert "loss" in json.loads((tmp_path / "finetune.jsonl").read_text().splitlines()[0])


def test_dropped_conditions_are_noticed(taught: ToyRun, rank: runtime.TrainRank, model: Path) -> None:
    """About half of the windows keep pose and speech when conditions are dropped as in training."""
    trainer = toy_trainer(taught, rank, model)
    window = window_of(trainer)
    assert window.pose is not None
    window = replace(window, pose=0.1 * window.pose)  # toy heads turn further than those of renders
    generator = torch.Generator().manual_seed(0)
    kept = [finetune.truth_share(window, drop_conditions(window, generator)).flatten(1).any(1) for _ in range(100)]
    assert 0.35 < torch.cat(kept).float().mean() < 0.55


def test_the_model_before_reads_features_of_its_own(
    taught: ToyRun, rank: runtime.TrainRank, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own ones are made constant here, so that they can be told from those that the student reads."""
    for file in taught.run.glob("features_train_*.pt"):
        own = runtime.load_checkpoint(file, rank.device)
        runtime.save_checkpoint(tmp_path / file.name, {key: torch.full_like(rows, 7) for key, rows in own.items()})
    trainer = toy_trainer(taught, rank, model, before_features=tmp_path)
    read: dict[str, set[bool]] = {"student": set(), "before": set()}

    def watch(name: str, network: finetune.WholeNetwork, method: str) -> None:
        plain = getattr(network, method)

        def watched(*args: Any) -> Any:
            features = args[-1].features
            assert features.shape[1] == trainer.cfg.dit.audio_layers
            told = features[features.flatten(1).any(1)]  # the others were dropped
            read[name] |= set((told.std(-1) == 0).flatten(1).all(1).tolist())
            return plain(*args)

        monkeypatch.setattr(network, method, watched)

    assert isinstance(trainer.before, finetune.WholeNetwork)
    watch("student", trainer.student, "flow")
    watch("student", trainer.student, "gradients")
    watch("before", trainer.before, "flow")
    for _ in range(4):
        trainer.train_step(0.3)
    assert read == {"student": {False}, "before": {True}}


def test_the_command_takes_features_for_the_model_before() -> None:
    options = ["--data", "RUN", "--out", "RUN", "--init", "MODEL"]
    assert finetune.parser().parse_args(options).before_features is None
    assert finetune.parser().parse_args([*options, "--before_features", "F"]).before_features == Path("F")
