"""Motion packer: compresses the last 19 latents into few tokens, finest for the newest.

Oldest first, 16 latents are packed by 4x8x8, the next 2 by 2x4x4, the newest 1 by 1x2x2. Tokens come
newest first and sit at negative times; coarse tokens sit on the fine grid's corners.

Shapes: B batch, C latent channels, T latents, h/w latent height and width, D model width.
"""

import torch
from torch import Tensor, nn

from liveavatar.model.rope import Rotation, rotation

RUNS = ((1, 1), (2, 2), (16, 4))  # (latents, packing factor), newest first
TIMES = ((-1,), (-3,), (-19, -14, -9, -4))  # of the packed latents of each run


class FramePacker(nn.Module):
    """Three patch embeddings of growing size; latent sides must be multiples of 8."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_dim, dim, (1, 2, 2), (1, 2, 2))
        self.proj_2x = nn.Conv3d(in_dim, dim, (2, 4, 4), (2, 4, 4))
        self.proj_4x = nn.Conv3d(in_dim, dim, (4, 8, 8), (4, 8, 8))

    def forward(self, latents_BCThw: Tensor) -> Tensor:
        """Pack the newest 19 latents into tokens [B, L, D]; missing older ones count as zero."""
        capacity = sum(run for run, _ in RUNS)
        B, C, T, h, w = latents_BCThw.shape
        if capacity > T:
            zeros = latents_BCThw.new_zeros(B, C, capacity - T, h, w)
            latents_BCThw = torch.cat((zeros, latents_BCThw), dim=2)
        tokens, end = [], latents_BCThw.shape[2]
        for (run, _), proj in zip(RUNS, (self.proj, self.proj_2x, self.proj_4x), strict=True):
            tokens.append(proj(latents_BCThw[:, :, end - run : end]).flatten(2).transpose(1, 2))
            end -= run
        return torch.cat(tokens, dim=1)


def motion_tokens(h: int, w: int) -> int:
    """Count the packer's tokens for latents h x w."""
    return sum(
        (len(times) * (h // (2 * factor)) * (w // (2 * factor))) for (_, factor), times in zip(RUNS, TIMES, strict=True)
    )


def motion_rotation(h: int, w: int, head_dim: int, half: bool, device: torch.device, shift: int = 0) -> Rotation:
    """Compute the rotation of the packer's tokens for latents h x w, moved `shift` latents along time."""
    rows, cols = h // 2, w // 2
    parts = []
    for (_, factor), times in zip(RUNS, TIMES, strict=True):
        y, x = (torch.linspace(0, n - 1, n // factor, dtype=torch.float64).long() for n in (rows, cols))
        grid = torch.meshgrid(torch.tensor(times) + shift, y, x, indexing="ij")
        parts.append(torch.stack([axis.flatten() for axis in grid]))
    t, y, x = torch.cat(parts, dim=1).to(device)
    return rotation(t, y, x, head_dim, half)
