"""Adversarial loss of the autoencoder: a small patch discriminator on crops around the mouth, and its weight.

It restores detail that L1 losses blur: grain, lashes, teeth edges. Its gradient at the decoder's output is scaled to a
fixed share of the reconstruction's, so no weight has to be tuned.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

SHARE = 0.25  # norm of the adversarial gradient over the reconstruction's, at the decoder's output
FRAMES = 4  # frames of a clip that the adversary sees


class PatchDiscriminator(nn.Module):
    """Classifier of real and generated patches of about 30 pixels; spectrally normalised."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [spectral_norm(nn.Conv2d(a, b, 4, 2, 1)), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, spectral_norm(nn.Conv2d(widths[-1], 1, 3, 1, 1)))

    def forward(self, x_N3HW: Tensor) -> Tensor:
        """Compute scores [N, 1, H/8, W/8]; higher is more real."""
        return self.net(x_N3HW)


def face_crops(video: Tensor, mouths: list[tuple[float, float]], side: int, times: list[int]) -> Tensor:
    """Cut squares [B * len(times), 3, side, side] around the mouth's centre, shifted to lie inside the picture."""
    height, width = video.shape[-2:]
    crops = []
    for clip, (x, y) in zip(video, mouths, strict=True):
        top = max(0, min(round(y) - side * 5 // 8, height - side))
        left = max(0, min(round(x) - side // 2, width - side))
        crops.append(clip[:, times, top : top + side, left : left + side].transpose(0, 1))
    return torch.cat(crops)


def discriminator_loss(adversary: nn.Module, real: Tensor, generated: Tensor) -> Tensor:
    """Compute the hinge loss of the discriminator."""
    return F.relu(1 - adversary(real)).mean() + F.relu(1 + adversary(generated)).mean()


def balanced_gradient(reconstruction: Tensor, adversarial: Tensor, output: Tensor) -> Tensor:
    """Sum the gradients of reconstruction and adversary at `output`, the latter scaled to `SHARE` of the former."""
    main = torch.autograd.grad(reconstruction, output, retain_graph=True)[0]
    pull = torch.autograd.grad(adversarial, output)[0]
    return main + pull * (SHARE * main.norm() / pull.norm().clamp(min=1e-12))
