"""The autoencoder's adversary: a small patch discriminator on crops around the mouth, and its balance.

It answers what L1 losses leave out: grain, lashes, teeth edges. Its pull on the picture is scaled to a fixed share
of the reconstruction's, measured on the gradients at the decoder's output, so no weight has to be tuned.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

SHARE = 0.25  # norm of the adversarial gradient over the reconstruction's, at the decoder's output
FRAMES = 4  # frames of a clip that the adversary sees


class PatchDiscriminator(nn.Module):
    """Real or made, per patch of about 30 pixels; spectrally normalised."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [spectral_norm(nn.Conv2d(a, b, 4, 2, 1)), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, spectral_norm(nn.Conv2d(widths[-1], 1, 3, 1, 1)))

    def forward(self, x_N3HW: Tensor) -> Tensor:
        """Scores [N, 1, H/8, W/8]; higher = more real."""
        return self.net(x_N3HW)


def face_crops(video: Tensor, mouths: list[tuple[float, float]], side: int, times: list[int]) -> Tensor:
    """Crops [B * len(times), 3, side, side] around the mouth's centre, kept inside the picture."""
    height, width = video.shape[-2:]
    crops = []
    for clip, (x, y) in zip(video, mouths, strict=True):
        top = max(0, min(round(y) - side * 5 // 8, height - side))
        left = max(0, min(round(x) - side // 2, width - side))
        crops.append(clip[:, times, top : top + side, left : left + side].transpose(0, 1))
    return torch.cat(crops)


def discriminator_loss(adversary: nn.Module, real: Tensor, made: Tensor) -> Tensor:
    """Hinge loss of the discriminator."""
    return F.relu(1 - adversary(real)).mean() + F.relu(1 + adversary(made)).mean()


def balanced_gradient(reconstruction: Tensor, adversarial: Tensor, output: Tensor) -> Tensor:
    """Gradient at `output` of the reconstruction plus the adversary's, the latter at `SHARE` of the former's norm."""
    main = torch.autograd.grad(reconstruction, output, retain_graph=True)[0]
    pull = torch.autograd.grad(adversarial, output)[0]
    return main + pull * (SHARE * main.norm() / pull.norm().clamp(min=1e-12))
