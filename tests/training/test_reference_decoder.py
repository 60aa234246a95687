"""The stage that trains the copying decoder: it starts from a model, learns, resumes, and its result is a model."""

import argparse
import shutil
from pathlib import Path

import pytest
import torch

from liveavatar.checkpoints.directory import read_config
from liveavatar.checkpoints.load import load_model
from liveavatar.errors import CheckpointError
from liveavatar.training import export, runtime
from liveavatar.training.reference_decoder import ReferenceTrainer, copying_autoencoder, parser
from tests.training.conftest import ToyRun


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    export.export_random("tiny", folder)
    return folder


def options(corpus: ToyRun, model: Path, out: Path, *more: str) -> argparse.Namespace:
    words = ["--data", str(corpus.clips), "--out", str(out), "--init", str(model), "--preset", "tiny"]
    words += ["--width", "8", "--batch", "2", "--frames", "4", "--blocks", "2", "2", "2", "--compile", "0", *more]
    return parser().parse_args(words)


def test_it_starts_as_the_models_decoder(model: Path) -> None:
    copying = copying_autoencoder(model, 8)
    plain = load_model(model, "cpu", torch.float32, parts=("vae",)).vae
    latents = torch.randn(1, 8, 1, 4, 3)
    picture = torch.rand(1, 3, 1, 64, 48)
    with torch.no_grad():
        video, _ = copying.decode_copying(latents, copying.reference(picture, copying.encode_still(picture, 1)))
    assert torch.equal(video, plain.decode(latents))
    assert not any(p.requires_grad for p in copying.encoder.parameters())


def test_more_blocks_than_the_model_has_are_refused(model: Path) -> None:
    with pytest.raises(CheckpointError, match="fewer blocks"):
        copying_autoencoder(model, 8, (2, 3, 4))


def test_a_decoder_becomes_part_of_a_model(model: Path, tmp_path: Path) -> None:
    vae = copying_autoencoder(model, 8, (2, 2, 2))
    average = {n: torch.full_like(p, 0.5) if p.requires_grad else p.detach() for n, p in vae.named_parameters()}
    facts = {"average": average, "reference_width": 8, "decoder_blocks": [2, 2, 2]}
    runtime.save_checkpoint(tmp_path / "run" / "autoencoder.pt", facts)
    copied = tmp_path / "model"
    shutil.copytree(model, copied)
    export.export_decoder(tmp_path / "run", copied)
    config = read_config(copied).vae
    assert (config.reference_width, config.decoder_blocks) == (8, (2, 2, 2))
    exported = load_model(copied, "cpu", torch.float32, parts=("vae",)).vae
    assert torch.equal(exported.decoder.branch.conv1.weight, average["decoder.branch.conv1.weight"])
    assert config.output_sharpen == 0
    export.main(["--decoder", str(tmp_path / "run"), "--out", str(copied), "--output_sharpen", "0.3"])
    export.main(["--decoder", str(tmp_path / "run"), "--out", str(copied)])
    assert read_config(copied).vae.output_sharpen == 0.3, "a later decoder keeps it"


@pytest.mark.nightly
def test_it_learns_and_resumes(corpus: ToyRun, model: Path, rank: runtime.TrainRank, tmp_path: Path) -> None:
    torch.manual_seed(0)
    args = options(corpus, model, tmp_path / "run")
    trainer = ReferenceTrainer(args, rank)
    encoder = {n: p.clone() for n, p in trainer.vae.encoder.named_parameters()}
    trainer.step = 14  # the next steps are one with a reference and one without
    losses = [trainer.train_step(0.1) for _ in range(2)]
    assert {"loss", "energy_loss", "copy", "flow"} <= losses[0].keys()
    assert "flow" not in losses[1]
    assert all(torch.equal(p, encoder[n]) for n, p in trainer.vae.encoder.named_parameters())
    branch = trainer.vae.decoder.branch
    assert branch is not None
    assert branch.conv_join.weight.any()
    assert {"psnr_face", "psnr_face_frame", "energy_face"} <= trainer.held_out().keys()
    runtime.save_checkpoint(args.out / "autoencoder.pt", trainer.state(1.0))
    resumed = ReferenceTrainer(args, rank)
    resumed.load(runtime.load_checkpoint(args.out / "autoencoder.pt", rank.device))
    assert resumed.step == 16
    name = "decoder.conv_out.weight"
    assert torch.equal(resumed.average.weights[name], trainer.average.weights[name])


@pytest.mark.nightly
def test_it_learns_from_drawn_latents_against_an_adversary(
    encoded: ToyRun, model: Path, rank: runtime.TrainRank, tmp_path: Path
) -> None:
    more = ["--features", str(encoded.run), "--drawn_share", "0.6", "--batch", "4", "--adversary", "1", "--gate", "0.5"]
    trainer = ReferenceTrainer(options(encoded, model, tmp_path / "run", *more, "--energy", "0"), rank)
    first = {n: p.clone() for n, p in trainer.adversary.named_parameters()}
    early, late = trainer.train_step(0.4), trainer.train_step(0.6)
    assert "adversary" not in early
    assert {"adversary", "gate", "copy", "flow"} <= late.keys()
    assert "energy_loss" not in late
    assert any(not torch.equal(p, first[n]) for n, p in trainer.adversary.named_parameters())
    held_out = trainer.held_out()
    assert {"psnr_drawn", "energy_face_drawn", "lattice_drawn"} <= held_out.keys()
    assert held_out["psnr_drawn"] != held_out["psnr"]


def test_a_grid_ends_the_adversary(corpus: ToyRun, model: Path, rank: runtime.TrainRank, tmp_path: Path) -> None:
    trainer = ReferenceTrainer(options(corpus, model, tmp_path / "run", "--adversary", "1"), rank)
    trainer.guard(30.0, 1.1)
    trainer.guard(29.5, 1.12)
    assert trainer.adversary_on
    trainer.guard(30.0, 1.2)
    assert not trainer.adversary_on
    trainer.adversary_on = True
    trainer.guard(29.0, 1.1)
    assert not trainer.adversary_on, "it may cost a decibel"
