"""Few-step sampler: noise and reference distance from the seed, and the Euler step.

The sampler integrates the flow v = noise - x0 along an explicit list of noise levels; there is no
guidance and nothing is re-noised. Everything random is drawn on the CPU from a counter (seed and clip, or
seed and block), so it does not depend on the device, on the placement, or on where a stream was resumed.
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from liveavatar.config import ModelConfig
from liveavatar.errors import InputError


def sigma_steps(cfg: ModelConfig, num_steps: int) -> tuple[float, ...]:
    """Return the noise levels of a `num_steps` sampler, the terminal 0 included.

    Raises:
        InputError: when the model has no such list.
    """
    if num_steps not in cfg.sigmas:
        known = ", ".join(str(n) for n in sorted(cfg.sigmas))
        raise InputError(f"--sample_steps {num_steps}: {cfg.name} has sampler settings for {known} steps; choose one")
    return (*cfg.sigmas[num_steps], 0.0)


def clip_noise(seed: int, clip: int, shape: Sequence[int]) -> Tensor:
    """Draw unit noise of a whole clip [C, T, h, w], fp32 on the CPU."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed + clip))


def reference_distance(bounds: tuple[int, int], seed: int, block: int) -> int:
    """Draw how many latents ahead of `block` the reference stands, within `bounds` inclusive."""
    low, high = bounds
    return low if low == high else random.Random(f"{seed}/{block}").randint(low, high)


def euler_step(x: Tensor, flow: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """Move x along the flow from one noise level to the next: summed in fp32, the flow's dtype out.

    The step width is a tensor because torch then scales a bf16 flow as the released sampler does.
    """
    return (x.float() + torch.tensor(sigma_next - sigma) * flow).to(flow.dtype)
