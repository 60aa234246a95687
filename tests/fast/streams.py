"""What a denoiser needs of a stream: settings, conditioning, features; small and random."""

import torch
from torch import Tensor

from liveavatar.engine.denoiser import Conditioning, DenoiseSpec
from liveavatar.engine.sampling import sigma_steps
from liveavatar.engine.settings import RenderSettings
from liveavatar.timing import BLOCK_FRAMES
from tests.fast.engines import CONFIG

BLOCKS = 8  # the ring is full, then written anew


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def spec(h: int = 8, steps: int = 3, seed: int = 1, kv_cache_dtype: str = "auto") -> DenoiseSpec:
    settings = RenderSettings(prompt="p", seed=seed, sample_steps=steps, infer_frames=24, kv_cache_dtype=kv_cache_dtype)
    return DenoiseSpec(settings=settings, sigmas=sigma_steps(CONFIG, steps), num_blocks=BLOCKS, h=h, w=8)


def conditioning(seed: int = 0, h: int = 8) -> Conditioning:
    C, dit = CONFIG.dit.in_dim, CONFIG.dit
    motion = draw(seed + 2, 1, C, dit.motion_latents, h, 8)
    return Conditioning(draw(seed, 1, 5, dit.text_dim), draw(seed + 1, 1, C, 1, h, 8), motion)


def features(index: int) -> Tensor:
    dit = CONFIG.dit
    return draw(50 + index, 1, dit.audio_layers, dit.audio_dim, dit.audio_history_frames + BLOCK_FRAMES)
