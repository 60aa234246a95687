"""Losses of the copying decoder on pictures whose answer is known."""

import torch

from liveavatar.training.reference_losses import energy_loss, gate_loss


def test_energy_is_that_of_patches_not_of_pixels() -> None:
    noise = torch.rand(1, 3, 2, 64, 64)
    assert energy_loss(noise, noise) == 0
    assert energy_loss(noise.roll(1, -1), noise) < 0.1 * energy_loss(torch.zeros_like(noise), noise)


def test_a_gate_pays_where_the_portrait_is_wrong() -> None:
    truth, decoded, copied = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.1), torch.zeros(1, 3, 8, 8)
    copied[..., 4:] = 0.6
    gate = torch.full((1, 1, 8, 8), 0.5, requires_grad=True)
    gate_loss(decoded, truth, copied, gate, torch.ones(1, 8, 8)).backward()
    assert gate.grad is not None
    assert (gate.grad[..., 4:] > 0).all()
    assert not gate.grad[..., :4].any()
