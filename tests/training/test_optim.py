"""Muon: what it makes of gradients, however the weights lie in memory, and that its state can be restored."""

import pytest
import torch
from torch import Tensor, nn

from liveavatar.training.optim import Muon, Optimisers, orthogonalise

SHAPES = ((8, 12), (12, 8), (8, 12), (6, 4, 3, 3), (5, 4, 1, 1), (16, 4))


def make_params(channels_last: bool) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator) for shape in SHAPES]
    if channels_last:
        tensors = [t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for t in tensors]
    return [nn.Parameter(t) for t in tensors]


def give_gradients(params: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator)  # always contiguous, whatever the weight


def textbook(weight: Tensor, grads: list[Tensor], lr: float, decay: float) -> Tensor:
    """Updates of one weight, one after another, in full precision."""
    weight, momentum = weight.clone().flatten(1), torch.zeros_like(weight).flatten(1)
    for grad in grads:
        g = grad.flatten(1)
        momentum = 0.95 * momentum + 0.05 * g
        x = 0.05 * g + 0.95 * momentum
        x = x / x.norm()
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        weight = weight * (1 - lr * decay) - lr * max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5 * x
    return weight


@pytest.mark.parametrize("shape", [pytest.param((3, 8, 20), id="wide"), pytest.param((3, 20, 8), id="tall")])
def test_orthogonalised_updates_keep_their_directions(shape: tuple[int, ...]) -> None:
    update = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    made = orthogonalise(update)
    assert made.dtype == update.dtype
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.6
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(update, full_matrices=False)
    diagonal = (u.mT @ made @ v.mT).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(diagonal, values.sort(-1).values, atol=0.7, rtol=0)
    assert diagonal.min() > 0.6


@pytest.mark.parametrize("channels_last", [pytest.param(False, id="plain"), pytest.param(True, id="channels last")])
def test_steps_are_the_textbook_ones(channels_last: bool) -> None:
    params = make_params(channels_last)
    before = [p.detach().clone() for p in params]
    muon = Muon(params, 0.1, weight_decay=0.5)
    grads: list[list[Tensor]] = []
    for seed in range(3):
        give_gradients(params, seed)
        grads.append([p.grad.clone() for p in params if p.grad is not None])
        muon.step()
    for i, p in enumerate(params):
        wanted = textbook(before[i], [g[i] for g in grads], 0.1, 0.5)
        torch.testing.assert_close(p.detach().flatten(1), wanted, atol=0.02, rtol=0)


def test_a_weight_without_gradient_stays() -> None:
    params = make_params(False)
    before = [p.detach().clone() for p in params]
    muon = Muon(params, 0.1)
    for missing in (None, 2):
        give_gradients(params, 3)
        if missing is not None:
            params[missing].grad = None
            before = [p.detach().clone() for p in params]
        muon.step()
    assert [torch.equal(p, b) for p, b in zip(params, before, strict=True)] == [i == 2 for i in range(len(params))]


def test_restored_state_goes_on_exactly() -> None:
    runs = []
    for restored in (False, True):
        params = make_params(True)
        make = lambda p=params: Optimisers(  # noqa: E731
            ((str(i), q) for i, q in enumerate(p)), muon=0.1, adamw=0.1, outer=lambda n: n == "0"
        )
        optim = make()
        for seed in range(4):
            give_gradients(params, seed)
            optim.step(1.0)
            if restored and seed == 1:
                state = optim.state_dict()
                optim = make()
                give_gradients(params, 9)  # the state of a used optimiser is replaced, not only an empty one's
                kept = [p.detach().clone() for p in params]
                optim.step(1.0)
                for p, k in zip(params, kept, strict=True):
                    p.data.copy_(k)
                optim.load_state_dict(state)
        runs.append(params)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
