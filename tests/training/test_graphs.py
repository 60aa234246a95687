"""What is recorded computes what autograd computes, and says what it does not own."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from liveavatar.training import graphs, runtime
from liveavatar.training.flow import RecordedNet, weighted_error
from liveavatar.training.graphs import EAGER_CALLS, RecordedFunction, Recorder
from tests.training.test_flow import make_net, make_window


@pytest.mark.parametrize("posed", [pytest.param(True, id="posed"), pytest.param(False, id="no pose at all")])
def test_gradients_are_those_of_the_loss(posed: bool, rank: runtime.TrainRank) -> None:
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


def test_flow_has_no_gradient(rank: runtime.TrainRank) -> None:
    net, window = make_net(), make_window(1, 2, 8, 16)
    noise, sigma = torch.randn(window.latents.shape), torch.full((1, 2), 0.4)
    made = RecordedNet(net, rank, True).flow(noise, sigma, window)
    assert not made.requires_grad
    torch.testing.assert_close(made, net.flow(noise, sigma, window).detach())


def test_nothing_is_recorded_on_the_cpu() -> None:
    layer = nn.Linear(3, 2)
    recorded = RecordedFunction(layer, Recorder(torch.device("cpu"), True))
    x = torch.randn(4, 3)
    for _ in range(4):
        assert torch.equal(recorded(x), layer(x))
    assert recorded.recordings == 0


class FakeGraph:
    def replay(self) -> None: ...


class FakeStream:
    device_index = 0

    def wait_stream(self, other: object) -> None: ...


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """A recorder whose graphs do nothing."""

    @contextmanager
    def graph(recording: FakeGraph, **_: object) -> Iterator[None]:
        yield

    for name, fake in {
        "CUDAGraph": FakeGraph, "graph": graph, "synchronize": lambda: None, "current_stream": FakeStream,
        "stream": lambda _: nullcontext(),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    recorder = Recorder(torch.device("cpu"), False)
    recorder.enabled, recorder.stream = True, FakeStream()  # type: ignore[assignment]
    return recorder


def test_a_recording_is_made_once_and_for_each_shape(cuda: Recorder) -> None:
    seen: list[tuple[int, ...]] = []

    def work(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape))
        return x * 2

    recorded = RecordedFunction(work, cuda)
    for call in range(EAGER_CALLS):
        for shape in ((2, 3), (3, 2)):
            x = torch.full(shape, float(call))
            assert torch.equal(recorded(x), x * 2)
    assert recorded.recordings == 0
    for shape in ((2, 3), (3, 2)) * 3:
        recorded(torch.ones(shape))
    assert recorded.recordings == 2
    assert seen.count((2, 3)) == seen.count((3, 2)) == EAGER_CALLS + 1, "work runs no more once it is recorded"


def test_a_failed_recording_falls_back(
    cuda: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    def work(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == EAGER_CALLS + 1:
            raise RuntimeError("operation not permitted when stream is capturing")
        return x + calls

    cleaned: list[object] = []
    monkeypatch.setattr(graphs, "clean_up", lambda stream, pool: cleaned.append((stream, pool)))
    recorded = RecordedFunction(work, cuda)
    x = torch.zeros(2)
    assert [float(recorded(x)[0]) for _ in range(EAGER_CALLS + 2)] == [1.0, 2.0, 4.0, 5.0]
    assert "not permitted" in caplog.text
    assert len(cleaned) == 1
    assert not cuda.enabled
