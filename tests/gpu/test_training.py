"""Training steps recorded as CUDA graphs equal the same steps launched kernel by kernel."""

from dataclasses import fields

import pytest
import torch

from liveavatar.training import runtime
from liveavatar.training.flow import AvatarNet
from liveavatar.training.graphs import EAGER_CALLS, RecordedNet
from liveavatar.training.window import Window
from tests.training.test_flow import make_net, make_window

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # compiling warns of what a test does not care for
]

CUDA = torch.device("cuda")
SIZES = ((16, 8), (8, 16))


def on_gpu(window: Window) -> Window:
    return Window(*(getattr(window, f.name).to(CUDA) for f in fields(window)))


def batch(size: tuple[int, int], seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Window]:
    window = on_gpu(make_window(2, 3, *size))
    generator = torch.Generator(CUDA).manual_seed(seed)
    noise = torch.randn(window.latents.shape, device=CUDA, generator=generator)
    sigma = torch.rand(2, 3, device=CUDA, generator=generator)
    return noise, sigma, noise - window.latents, window


def pair(compiled: bool) -> tuple[AvatarNet, RecordedNet, RecordedNet]:
    rank = runtime.Rank(0, 1, CUDA)
    net = make_net().to(CUDA)
    if compiled:
        net.compile_blocks()
    return net, RecordedNet(net, rank, False), RecordedNet(net, rank, True)


@pytest.mark.parametrize("compiled", [pytest.param(False, id="plain"), pytest.param(True, id="compiled")])
def test_recorded_gradients_equal_plain_ones(compiled: bool) -> None:
    net, plain, recorded = pair(compiled)
    for call in range(EAGER_CALLS + 4):
        for size in SIZES:
            inputs = batch(size, call)
            wanted_loss = plain.gradients(*inputs)
            wanted = [p.grad.clone() for p in net.parameters() if p.grad is not None]
            loss = recorded.gradients(*inputs)
            torch.testing.assert_close(loss, wanted_loss, atol=1e-3, rtol=1e-3)
            size_of_all = torch.stack([w.norm() for w in wanted]).norm()
            for (name, p), w in zip(net.named_parameters(), wanted, strict=True):
                assert p.grad is not None
                error = (p.grad - w).norm()
                assert error < 0.02 * w.norm() + 1e-3 * size_of_all, (name, call, float(error), float(w.norm()))
        with torch.no_grad():
            for p in net.parameters():  # replays must read the weights of now
                p.add_(0.02 * torch.randn_like(p))
    assert recorded._loss.recordings == len(SIZES), "the recording failed"


def test_recorded_flows_equal_plain_ones() -> None:
    _, plain, recorded = pair(compiled=True)
    kept = []
    for call in range(EAGER_CALLS + 3):
        for size in SIZES:
            noise, sigma, _, window = batch(size, call)
            made = recorded.flow(noise, sigma, window)
            kept.append((made, made.clone()))
            torch.testing.assert_close(made, plain.flow(noise, sigma, window), atol=2e-2, rtol=2e-2)
    assert recorded._flow.recordings == len(SIZES), "the recording failed"
    assert all(torch.equal(made, copy) for made, copy in kept), "a later replay changed an earlier result"
