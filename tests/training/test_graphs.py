"""What is recorded computes what autograd computes, and says what it does not own."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from liveavatar.training import runtime
from liveavatar.training.flow import RecordedNet, weighted_error
from liveavatar.training.graphs import Recorded, Recorder
from tests.training.test_flow import make_net, make_window


@pytest.mark.parametrize("posed", [pytest.param(True, id="posed"), pytest.param(False, id="no pose at all")])
def test_gradients_are_those_of_the_loss(posed: bool, rank: runtime.Rank) -> None:
    net, window = make_net(), make_window(2, 2, 8, 16)
    window = window if posed else replace(window, pose=None)
    noise, sigma = torch.randn(window.latents.shape), torch.rand(2, 2)
    target = noise - window.latents
    loss = weighted_error(net.flow(noise, sigma, window), target, window.weights)
    loss.backward()
    wanted = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in net.named_parameters()}
    recorded = RecordedNet(net, rank, True)
    for _ in range(2):  # the gradients of the call before, or of anybody else, do not matter
        got = recorded.gradients(noise, sigma, target, window)
        assert float(got) == pytest.approx(float(loss.detach()))
        assert not got.requires_grad
        for name, p in net.named_parameters():
            assert p.grad is not None
            torch.testing.assert_close(p.grad, wanted[name], msg=name)
            p.grad.add_(1)
        net.zero_grad(set_to_none=True)


def test_flow_has_no_gradient(rank: runtime.Rank) -> None:
    net, window = make_net(), make_window(1, 2, 8, 16)
    noise, sigma = torch.randn(window.latents.shape), torch.full((1, 2), 0.4)
    made = RecordedNet(net, rank, True).flow(noise, sigma, window)
    assert not made.requires_grad
    torch.testing.assert_close(made, net.flow(noise, sigma, window).detach())


def test_nothing_is_recorded_on_the_cpu() -> None:
    layer = nn.Linear(3, 2)
    recorded = Recorded(layer, Recorder(torch.device("cpu"), True))
    x = torch.randn(4, 3)
    for _ in range(4):
        assert torch.equal(recorded(x), layer(x))
    assert recorded.recordings == 0
