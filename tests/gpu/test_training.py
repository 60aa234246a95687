"""Training steps recorded as CUDA graphs equal the same steps launched kernel by kernel."""

from dataclasses import fields

import pytest
import torch

from liveavatar.training import runtime
from liveavatar.training.batch import Window
from liveavatar.training.flow import AvatarNet, RecordedNet
from liveavatar.training.graphs import EAGER_CALLS, RecordedFunction, Recorder
from liveavatar.training.optim import Muon
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
    rank = runtime.TrainRank(0, 1, CUDA)
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
    assert recorded.recorded_loss.recordings == len(SIZES), "the recording failed"


def test_recorded_flows_equal_plain_ones() -> None:
    _, plain, recorded = pair(compiled=True)
    kept = []
    for call in range(EAGER_CALLS + 3):
        for size in SIZES:
            noise, sigma, _, window = batch(size, call)
            made = recorded.flow(noise, sigma, window)
            kept.append((made, made.clone()))
            torch.testing.assert_close(made, plain.flow(noise, sigma, window), atol=2e-2, rtol=2e-2)
    assert recorded.recorded_flow.recordings == len(SIZES), "the recording failed"
    assert all(torch.equal(made, copy) for made, copy in kept), "a later replay changed an earlier result"


def test_recorded_muon_equals_plain_muon() -> None:
    torch.manual_seed(0)
    shapes = [(64, 32), (32, 64), (64, 32), (48, 16, 3, 3)]
    weights = [torch.randn(shape, device=CUDA) for shape in shapes]
    weights[-1] = weights[-1].to(memory_format=torch.channels_last)
    sides = [[torch.nn.Parameter(w.clone()) for w in weights] for _ in range(2)]
    plain, recorded = Muon(sides[0], 0.1, record=False), Muon(sides[1], 0.1, record=True)
    for _ in range(EAGER_CALLS + 3):
        for a, b in zip(*sides, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        plain.step()
        recorded.step()
        for a, b in zip(*sides, strict=True):
            torch.testing.assert_close(a, b, atol=2e-3, rtol=0)
    assert recorded.recordings == 1, "the recording failed"


def test_what_cannot_be_recorded_runs_on(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(CUDA, True)
    waits = RecordedFunction(lambda x: x * float(x.sum()), recorder)
    for call in range(EAGER_CALLS + 3):
        x = torch.full((4,), float(call), device=CUDA)
        assert torch.equal(waits(x), x * 4 * call)
    assert not recorder.enabled
    assert "CUDA graphs are off" in caplog.text
    assert torch.rand(3, device=CUDA).max() < 1, "the default generator works on"
    fine = RecordedFunction(lambda x: x + 1, Recorder(CUDA, True))
    assert [float(fine(torch.zeros(1, device=CUDA))) for _ in range(EAGER_CALLS + 2)] == [1.0] * (EAGER_CALLS + 2)
    assert fine.recordings == 1
