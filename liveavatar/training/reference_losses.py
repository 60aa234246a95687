"""Losses of the decoder that copies from the portrait, beside the autoencoder's reconstruction loss.

Shapes: B batch, T frames, N = T*B time-major frames, H/W pixels.
"""

import torch.nn.functional as F
from torch import Tensor

ENERGY_PATCH = 16  # pixels a side of a patch


def energy_loss(decoded: Tensor, truth: Tensor) -> Tensor:
    """Compute the mean difference in root gradient energy between patches of videos [B, 3, T, H, W]."""
    energies = [_patch_energy(video.transpose(1, 2).flatten(0, 1)) for video in (decoded, truth)]
    return (energies[0] - energies[1]).abs().mean()


def _patch_energy(frames_NCHW: Tensor) -> Tensor:
    grey = frames_NCHW.mean(1, keepdim=True)
    dx, dy = grey[..., :-1, 1:] - grey[..., :-1, :-1], grey[..., 1:, :-1] - grey[..., :-1, :-1]
    return (F.avg_pool2d(dx.square() + dy.square(), ENERGY_PATCH, ENERGY_PATCH // 2) + 1e-6).sqrt()


def gate_loss(decoded: Tensor, truth: Tensor, copied: Tensor, gate: Tensor, weights: Tensor) -> Tensor:
    """Compute the mean of a gate where what it copies is further from the truth than the output.

    Args:
        decoded, truth, copied: pictures [N, 3, H, W].
        gate: share of `copied` in `decoded` [N, 1, H, W]; the only input that gets a gradient.
        weights: [N, H, W] of mean 1.
    """
    worse = ((copied - truth).abs() - (decoded - truth).abs()).detach().mean(1).relu()
    return (gate[:, 0].relu() * worse * weights).mean()
