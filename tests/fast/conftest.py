"""Small networks with random weights, in which nothing is zero."""

import pytest
import torch

from liveavatar.model.dit import CausalDiT
from liveavatar.model.vae_wan import WanVAE
from tests.fast.small import SMALL_DIT, SMALL_VAE


@pytest.fixture(scope="module")
def dit() -> CausalDiT:
    torch.manual_seed(0)
    network = CausalDiT(SMALL_DIT)
    for p in network.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    torch.manual_seed(0)
    network = WanVAE(SMALL_VAE)
    for p in network.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return network.eval().requires_grad_(False)
