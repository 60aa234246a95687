"""Crops around the mouth, the hinge loss, and gradients whose shares are given."""

import pytest
import torch

from liveavatar.training.adversary import SHARE, PatchDiscriminator, balanced_gradient, discriminator_loss, face_crops


@pytest.mark.parametrize(
    ("mouth", "top", "left"),
    [
        pytest.param((20.0, 30.0), 20, 12, id="the mouth is below the middle of the crop"),
        pytest.param((2.0, 3.0), 0, 0, id="upper left corner"),
        pytest.param((39.0, 59.0), 44, 24, id="lower right corner"),
    ],
)
def test_crops_lie_inside_the_picture(mouth: tuple[float, float], top: int, left: int) -> None:
    video = torch.arange(2 * 3 * 5 * 60 * 40).reshape(2, 3, 5, 60, 40)
    crops = face_crops(video, [mouth, (20.0, 30.0)], 16, [1, 4])
    assert crops.shape == (4, 3, 16, 16)
    assert torch.equal(crops[1], video[0, :, 4, top : top + 16, left : left + 16]), "clip by clip, then by time"
    assert torch.equal(crops[2], video[1, :, 1, 20:36, 12:28])


def test_hinge_loss_is_zero_beyond_the_margins() -> None:
    def scores(x: torch.Tensor) -> torch.Tensor:
        return x

    one = torch.ones(4)
    assert float(discriminator_loss(scores, one, -one)) == 0  # type: ignore[arg-type]
    assert float(discriminator_loss(scores, 3 * one, -3 * one)) == 0  # type: ignore[arg-type]
    assert float(discriminator_loss(scores, 0 * one, 0.5 * one)) == 2.5  # type: ignore[arg-type]


@pytest.mark.parametrize("strength", [1e-3, 1e3])
def test_the_adversary_pulls_with_its_share(strength: float) -> None:
    output = torch.zeros(2, requires_grad=True)
    reconstruction, adversarial = 3 * output[0] + 4 * output[1], strength * output[0]
    gradient = balanced_gradient(reconstruction, adversarial, output)
    torch.testing.assert_close(gradient, torch.tensor([3 + SHARE * 5, 4.0]))


def test_an_adversary_without_a_gradient_does_nothing() -> None:
    output = torch.ones(2, requires_grad=True)
    torch.testing.assert_close(balanced_gradient(output.sum(), 0 * output.sum(), output), torch.ones(2))


def test_discriminator_scores_patches_and_is_bounded() -> None:
    torch.manual_seed(0)
    net = PatchDiscriminator(width=4)
    for _ in range(20):  # spectral normalisation takes some passes to settle
        net(torch.randn(2, 3, 32, 24))
    x = torch.randn(2, 3, 32, 24)
    scores = net.eval()(x)
    assert scores.shape == (2, 1, 4, 3)
    assert (net(x + 0.1) - scores).norm() < 10 * (0.1 * torch.ones_like(x)).norm()
