"""Engines of a tiny random model on the plain backend, and jobs for them."""

import copy
from dataclasses import replace

import numpy as np
import torch

from liveavatar.checkpoints.load import LoadedModel
from liveavatar.config import TINY, ModelConfig
from liveavatar.engine.engine import Engine
from liveavatar.engine.job import Block, StreamJob, TensorFeatures
from liveavatar.engine.plain import PlainBackend
from liveavatar.engine.prompt_encoder import prompt_encoder
from liveavatar.engine.settings import RenderSettings
from liveavatar.model.dit import CausalDiT
from liveavatar.model.text import PromptEncoder
from liveavatar.model.vae import build_vae
from tests.job_changes import changed

SIZE = (128, 128)


def lively(network: torch.nn.Module) -> torch.nn.Module:
    """Random weights without the zeros that a fresh network starts from, so that everything matters."""
    for p in network.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return network.eval().requires_grad_(False)


def lively_model() -> LoadedModel:
    """The tiny model with such weights."""
    torch.manual_seed(0)
    return LoadedModel(
        config=TINY,
        dit=lively(CausalDiT(TINY.dit)),
        vae=lively(build_vae(TINY.vae)),
        text=lively(PromptEncoder(TINY.text)),
    )


def engine_of(model: LoadedModel) -> Engine:
    cpu = torch.device("cpu")
    return Engine(PlainBackend(model, cpu), prompt_encoder(model, None, cpu))


def make_job(num_frames: int = 75, **changes: object) -> StreamJob:
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(5, 768, 12 * 12))).float()
    job = StreamJob(
        image=rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8),
        settings=RenderSettings(prompt="a calm woman in warm light", infer_frames=24),
        features=TensorFeatures(features),
        num_frames=num_frames,
    )
    return changed(job, **changes)


def latents(blocks: list[Block]) -> torch.Tensor:
    return torch.stack([b.latents for b in blocks])


def frames(blocks: list[Block]) -> np.ndarray:
    return np.concatenate([b.frames for b in blocks if b.frames is not None])


def guided(engine: Engine, config: ModelConfig = TINY) -> Engine:
    """The same networks as a model that was trained with head pose."""
    backend = copy.copy(engine.backend)
    backend.config = replace(config, pose_guided=True)
    return Engine(backend, engine.encode_prompt)


def nod(num_frames: int) -> np.ndarray:
    return (0.2 * np.sin(np.arange(num_frames) / 5)[:, None] * [0.3, 1, 0]).astype(np.float32)


def with_eyes(num_frames: int, lids: float = 0.0, gaze: float = 0.0) -> np.ndarray:
    eyes = np.tile(np.float32([lids, gaze, gaze]), (num_frames, 1))
    return np.concatenate((nod(num_frames), eyes), 1)
