"""Corrections of a speech encoder for tests, and a model directory that has some."""

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from liveavatar.audio.encoders import low_rank
from liveavatar.audio.encoders.whisper_network import load_encoder
from liveavatar.checkpoints.directory import read_config


def write_corrections(path: Path, source: str | Path = "tiny.en", seed: int = 0) -> Path:
    """Write random corrections that have an effect; return the file."""
    torch.manual_seed(seed)
    tuned = load_encoder(source)
    for parameter in low_rank.attach(tuned, 2):
        torch.nn.init.normal_(parameter, std=0.05)
    low_rank.save(path, tuned)
    return path


def tuned_copy(model: Path, folder: Path) -> Path:
    """Copy a model and give it corrections; return the folder."""
    shutil.copytree(model, folder)
    config = read_config(folder)
    (folder / "config.json").write_text(
        replace(config, speech=replace(config.speech, tuning=low_rank.FILE, shifts=(0,))).to_json()
    )
    write_corrections(folder / low_rank.FILE)
    return folder
