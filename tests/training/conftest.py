"""A toy corpus and one encoded run of the tiny preset, made once for all training tests."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from liveavatar.training import runtime
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
            "guidance": 1.0, "face_loss": 0.1, "muon": 0.02, "adamw": 3e-3, "decay": 0.01,
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
