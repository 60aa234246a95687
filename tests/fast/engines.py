"""Plain and fast engines of one small model with a video autoencoder as the large one's, and jobs for them."""

from dataclasses import replace

import numpy as np
import torch

from liveavatar.checkpoints.load import LoadedModel
from liveavatar.config import LIVE_AVATAR_14B
from liveavatar.engine.engine import Engine
from liveavatar.engine.job import Block, StreamJob, TensorFeatures
from liveavatar.engine.plain import PlainBackend
from liveavatar.engine.settings import RenderSettings
from liveavatar.fast.backend import FastBackend
from liveavatar.model.dit import CausalDiT
from liveavatar.model.vae import build_vae
from tests.job_changes import changed

CPU = torch.device("cpu")
CONFIG = replace(
    LIVE_AVATAR_14B,
    dit=replace(
        LIVE_AVATAR_14B.dit, dim=64, num_heads=2, num_layers=2, ffn_dim=96, text_dim=16, text_len=8, audio_dim=8,
        audio_layers=3, audio_inject_layers=(0,), freq_dim=32,
    ),
    vae=replace(
        LIVE_AVATAR_14B.vae, encoder_widths=(4, 8, 8, 8), decoder_widths=(8, 8, 8, 4), num_res_blocks=1,
        prime_latents=2,
    ),
)  # fmt: skip


def prompt_rows(prompt: str) -> torch.Tensor:
    """Rows drawn from the prompt's length, in place of umT5."""
    return torch.randn(1, 5, CONFIG.dit.text_dim, generator=torch.Generator().manual_seed(len(prompt)))


def model() -> LoadedModel:
    torch.manual_seed(0)
    parts = {"dit": CausalDiT(CONFIG.dit), "vae": build_vae(CONFIG.vae)}
    for network in parts.values():
        for p in network.parameters():
            p.data += 0.05 * torch.randn_like(p)
        network.eval().requires_grad_(False)
    return LoadedModel(config=CONFIG, **parts)


def fast_engine(loaded: LoadedModel, fp8: bool = False) -> Engine:
    return Engine(FastBackend(loaded, CPU, fp8), prompt_rows)


def plain_engine() -> Engine:
    return Engine(PlainBackend(model(), CPU), prompt_rows)


def job(num_frames: int = 75, **changes: object) -> StreamJob:
    rng = np.random.default_rng(0)
    made = StreamJob(
        image=rng.integers(0, 255, (64, 64, 3), dtype=np.uint8),
        settings=RenderSettings(prompt="a calm woman", sample_steps=2, infer_frames=24),
        features=TensorFeatures(torch.from_numpy(rng.normal(size=(3, 8, 96))).float()),
        num_frames=num_frames,
    )
    return changed(made, **changes)


def same(got: list[Block], wanted: list[Block]) -> None:
    assert [b.index for b in got] == [b.index for b in wanted]
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a.latents, b.latents, atol=2e-4, rtol=1e-3)
        assert a.frames is not None
        assert b.frames is not None
        assert a.frames.shape == b.frames.shape
        assert np.abs(a.frames.astype(int) - b.frames).max() <= 1
