"""A toy corpus and a run of the tiny preset on it, each made once for all training tests."""

import argparse
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from liveavatar.checkpoints.directory import read_config
from liveavatar.config import TINY
from liveavatar.model.vae_compact import CompactVAE
from liveavatar.training import autoencoder, latents, partial_export, runtime, teacher
from liveavatar.training.flow import AvatarNet
from tests.training import toy


@dataclass(frozen=True, slots=True)
class ToyRun:
    """Folders of a toy corpus and of a training run on it."""

    clips: Path
    speech: Path
    encoder: Path
    run: Path

    def args(self, **more: object) -> argparse.Namespace:
        """Options of a stage as its command line would give them."""
        base: dict[str, object] = {
            "data": self.run, "out": self.run, "preset": "tiny", "seed": 0, "compile": 0, "graphs": 1,
            "batch": 2, "blocks": 3,
            "frames": 4, "adversary": 0,
            "latent_noise": 0.1, "smooth": 0.1, "sharpen": 0.2, "init": None, "only_decoder": None, "share": 1,
            "model": None, "shift": None, "before_features": None, "speech_tuning": None,
            "guidance": 1.0, "anchor": 0.1, "face_loss": 0.1, "muon": 0.02, "adamw": 3e-3, "decay": 0.01,
        }  # fmt: skip
        return argparse.Namespace(**(base | more))


@pytest.fixture(scope="session")
def rank() -> runtime.TrainRank:
    """This process alone, on the CPU."""
    return runtime.TrainRank(0, 1, torch.device("cpu"))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    """Clips and speech; nothing trained."""
    folder = tmp_path_factory.mktemp("toy")
    toy.write_speech(folder / "speech")
    toy.write_encoder(folder / "encoder.safetensors")
    toy.write_clips(folder / "clips", train=2, held=1)
    (folder / "run").mkdir()
    return ToyRun(folder / "clips", folder / "speech", folder / "encoder.safetensors", folder / "run")


@pytest.fixture(scope="session")
def encoded(corpus: ToyRun, rank: runtime.TrainRank) -> ToyRun:
    """The toy run with an autoencoder, latents, features, a face reader and a probe."""
    torch.manual_seed(0)
    trainer = autoencoder.AutoencoderTrainer(corpus.args(data=corpus.clips), rank)
    for i in range(8):
        trainer.train_step(i / 8)
    runtime.save_checkpoint(corpus.run / "autoencoder.pt", trainer.state(1.0))
    latents.encode_stage(
        corpus.args(
            data=corpus.clips, speech=corpus.speech, autoencoder=corpus.run, speech_encoder=str(corpus.encoder),
            probe_seconds=1.0, reader_seconds=1.0, only_speech=False, statistics=None,
        ),
        rank,
    )  # fmt: skip
    return corpus


@pytest.fixture(scope="session")
def taught(encoded: ToyRun, rank: runtime.TrainRank) -> ToyRun:
    """The encoded run with a teacher."""
    trainer = teacher.TeacherTrainer(encoded.args(), rank, read_config(encoded.run))
    for i in range(8):
        trainer.train_step(i / 8)
    trainer.held_out()
    runtime.save_checkpoint(encoded.run / "teacher.pt", trainer.state(1.0))
    return encoded


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """Folder of a run of the tiny preset that has an autoencoder and nothing else."""
    folder = tmp_path / "run"
    folder.mkdir()
    torch.save({"average": dict(CompactVAE(TINY.vae).named_parameters())}, folder / "autoencoder.pt")
    return folder


def add_teacher(folder: Path) -> torch.Tensor:
    """Give a run a teacher of random weights and return one of them."""
    weights = {n: p.detach() for n, p in AvatarNet(TINY).named_parameters()}
    torch.save({"average": weights}, folder / "teacher.pt")
    (folder / "config.json").write_text(TINY.to_json())
    return weights["dit.patch_embedding.weight"]


def unpacked(parts: list[Path], folder: Path, stem: str = partial_export.STEM) -> Path:
    """Extract an archive in parts and return the folder `stem` in it."""
    with tarfile.open(fileobj=io.BytesIO(b"".join(p.read_bytes() for p in parts))) as tar:
        tar.extractall(folder, filter="data")
    return folder / stem
