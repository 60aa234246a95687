"""Rotary position embedding with one table per axis: time, height, width.

The head width is split into three runs of complex pairs (time gets the remainder), each rotated by its own axis.
Angles are formed in fp64 from absolute positions, so a stream may be of any length; a negative position is a conjugate
rotation.

Shapes: L tokens, H head width, P = H/2 complex pairs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

THETA = 10_000.0


@dataclass(frozen=True, slots=True)
class Rotation:
    """cos and sin of every token's angles, each [L, P] fp32."""

    cos: Tensor
    sin: Tensor

    def __getitem__(self, tokens: slice) -> "Rotation":
        return Rotation(self.cos[tokens], self.sin[tokens])


def axis_pairs(head_dim: int) -> tuple[int, int, int]:
    """Split a head's complex pairs over the time, height and width axis; 22, 21, 21 for a head of 128."""
    spatial = head_dim // 6
    return head_dim // 2 - 2 * spatial, spatial, spatial


def rotation(time: Tensor, height: Tensor, width: Tensor, head_dim: int, half: bool = False) -> Rotation:
    """Compute the rotation of tokens at integer positions, on the positions' device.

    Args:
        time, height, width: positions [L] each.
        head_dim: H.
        half: round cos and sin to fp16 first, as the released weights' code does.
    """
    angles = []
    for position, pairs in zip((time, height, width), axis_pairs(head_dim), strict=True):
        exponent = torch.arange(pairs, dtype=torch.float64, device=position.device) / pairs
        angles.append(position.double()[:, None] * THETA**-exponent)
    angle_LP = torch.cat(angles, dim=1)
    cos, sin = angle_LP.cos(), angle_LP.sin()
    if half:
        cos, sin = cos.half(), sin.half()
    return Rotation(cos.float(), sin.float())


def grid_rotation(times: range, height: int, width: int, head_dim: int, half: bool, device: torch.device) -> Rotation:
    """Compute the rotation of a [T, height, width] grid of tokens, flattened in that order."""
    t, y, x = torch.meshgrid(
        torch.arange(times.start, times.stop, dtype=torch.float64, device=device),
        torch.arange(height, dtype=torch.float64, device=device),
        torch.arange(width, dtype=torch.float64, device=device),
        indexing="ij",
    )
    return rotation(t.flatten(), y.flatten(), x.flatten(), head_dim, half)


def rotate(x: Tensor, r: Rotation) -> Tensor:
    """Rotate the interleaved pairs (2i, 2i+1) of x [..., L, H]; fp32 inside, x's dtype out."""
    even, odd = x[..., ::2].float(), x[..., 1::2].float()
    return torch.stack((even * r.cos - odd * r.sin, even * r.sin + odd * r.cos), dim=-1).flatten(-2).to(x.dtype)
