"""Mouth values of rendered frames, the targets of the face reader.

Shapes: B batch, F frames, T latents.
"""

import torch
from torch import Tensor

from liveavatar.quality import reference
from liveavatar.timing import LATENT_FRAMES

MOUTH = 2 * LATENT_FRAMES  # openness of a latent's frames, then their width


def mouth_track(landmarks_BF682: Tensor) -> Tensor:
    """Return openness and width of the frames of each latent, [B, T, MOUTH], from landmarks of F = 4 T frames."""
    values = (reference.openness(landmarks_BF682), reference.mouth_width(landmarks_BF682))
    return torch.cat([v.unflatten(1, (-1, LATENT_FRAMES)) for v in values], dim=-1)
