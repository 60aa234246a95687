"""Optimisers of all stages: Muon for matrices and convolutions, AdamW for the rest, EMA, the rate schedule.

Muon (K. Jordan, 2024): momentum, then the nearest semi-orthogonal matrix of the update through five
Newton-Schulz steps. Equal shapes are orthogonalised together, as one batched product, and all of them as one graph.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from liveavatar.training.graphs import RecordedFunction, Recorder

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic coefficients of the Muon paper
NEWTON_SCHULZ_STEPS = 5
WARMUP_STEPS, WARMUP_SHARE = 100, 0.03


def orthogonalise(update_NAB: Tensor) -> Tensor:
    """Approximate the nearest semi-orthogonal matrices of a stack of updates (singular values 0.7 to 1.2)."""
    a, b, c = NEWTON_SCHULZ
    x = update_NAB.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(update_NAB.dtype)


def as_matrix(tensor: Tensor, like: Tensor) -> Tensor:
    """View a tensor of the shape of weight `like` as [out, everything else], in the memory order of `like`."""
    if tensor.ndim == 4 and not like.is_contiguous():
        tensor = tensor.permute(0, 2, 3, 1)  # channels last; the order of columns does not matter to Muon
    return tensor.reshape(len(tensor), -1)


class _Plan:
    """Matrices with gradients of one parameter group, and one flat buffer for all their updates."""

    def __init__(self, params: list[nn.Parameter], state: dict[Any, Any], record: bool) -> None:
        by_shape: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
        for p in params:
            by_shape[tuple(as_matrix(p.detach(), p).shape)].append(p)
        self.params = [p for group in by_shape.values() for p in group]
        self.weights = [as_matrix(p.detach(), p) for p in self.params]
        assert all(w.data_ptr() == p.data_ptr() for w, p in zip(self.weights, self.params, strict=True))
        for p in self.params:
            stored = state[p].get("momentum")
            if stored is None or stored.stride() != p.stride():
                state[p]["momentum"] = torch.zeros_like(p) if stored is None else torch.empty_like(p).copy_(stored)
        self.momenta = [as_matrix(state[p]["momentum"], p) for p in self.params]
        self.stacks = [(len(group), *shape) for shape, group in by_shape.items()]
        self.flat = torch.empty(sum(w.numel() for w in self.weights), device=self.weights[0].device)
        parts = self.flat.split([w.numel() for w in self.weights])
        self.updates = [part.view_as(w) for part, w in zip(parts, self.weights, strict=True)]
        self.orthogonal = RecordedFunction(self._orthogonalise, Recorder(self.flat.device, record))

    def _orthogonalise(self, flat: Tensor) -> Tensor:
        done = []
        for part, (n, rows, cols) in zip(flat.split([n * r * c for n, r, c in self.stacks]), self.stacks, strict=True):
            done.append(orthogonalise(part.view(n, rows, cols)).flatten() * max(1.0, rows / cols) ** 0.5)
        return torch.cat(done)

    def step(self, lr: float, momentum: float, weight_decay: float) -> None:
        grads = [as_matrix(p.grad, p) for p in self.params if p.grad is not None]
        torch._foreach_lerp_(self.momenta, grads, 1 - momentum)
        torch._foreach_copy_(self.updates, grads)
        torch._foreach_lerp_(self.updates, self.momenta, momentum)  # Nesterov
        self.flat.copy_(self.orthogonal(self.flat))
        torch._foreach_mul_(self.weights, 1 - lr * weight_decay)
        torch._foreach_add_(self.weights, self.updates, alpha=-lr)


class Muon(torch.optim.Optimizer):
    """Muon optimiser: orthogonalised Nesterov momentum; convolutions count as [out, in*k*k] matrices.

    The products are small and many: they are recorded as one CUDA graph.
    """

    def __init__(
        self,
        params: list[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        record: bool = True,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.record = record
        self._plans: dict[tuple[int, ...], _Plan] = {}  # by the parameters that have gradients

    @property
    def recordings(self) -> int:
        """Number of recorded graphs."""
        return sum(plan.orthogonal.recordings for plan in self._plans.values())

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply one update; `closure` is not supported."""
        assert closure is None
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            key = tuple(id(p) for p in params)
            if params and key not in self._plans:
                self._plans[key] = _Plan(params, self.state, self.record)
            if params:
                self._plans[key].step(group["lr"], group["momentum"], group["weight_decay"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state of `state_dict()`."""
        super().load_state_dict(state_dict)
        self._plans.clear()  # they hold the old momenta


class Optimisers:
    """Muon for matrices inside the network and AdamW for everything else, with one rate factor."""

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        *,
        muon: float,
        adamw: float,
        outer: Callable[[str], bool],
        decay: float = 0.01,
        record: bool = True,
    ):
        """Split parameters: matrices that are not `outer(name)` go to Muon at rate `muon`, others to AdamW.

        `decay` is Muon's weight decay (times its rate); `record` lets it use CUDA graphs.
        """
        named = [(n, p) for n, p in named if p.requires_grad]
        inner = [p for n, p in named if p.ndim in (2, 4) and not outer(n)]
        ids = {id(p) for p in inner}
        rest = [p for _, p in named if id(p) not in ids]
        fused = bool(rest) and rest[0].is_cuda
        self.params = [p for _, p in named]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, adamw, betas=(0.9, 0.98), weight_decay=0.01, fused=fused)
        ]
        self.rates = [adamw]
        if inner:
            self.parts.append(Muon(inner, muon, weight_decay=decay, record=record))
            self.rates.append(muon)

    def step(self, factor: float, clip: float = 1.0) -> Tensor:
        """Clip the gradients to norm `clip`, step at `factor` times the base rates, clear them; return the norm."""
        norm = nn.utils.clip_grad_norm_(self.params, clip)
        for part, rate in zip(self.parts, self.rates, strict=True):
            for group in part.param_groups:
                group["lr"] = rate * factor
            part.step()
            part.zero_grad(set_to_none=True)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def state_dict(self) -> dict[str, Any]:
        """Collect the states of both optimisers."""
        return {str(i): part.state_dict() for i, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict()`."""
        for i, part in enumerate(self.parts):
            part.load_state_dict(state[str(i)])


def rate_factor(step: int, fraction: float) -> float:
    """Compute the learning rate factor: warm-up over `WARMUP_STEPS` or 3 % of the budget, the shorter of both.

    Constant until half of the budget, then linear down to 2 %.
    """
    decay = 1.0 if fraction < 0.5 else max(0.02, 2 * (1 - fraction))
    return min(1.0, max((step + 1) / WARMUP_STEPS, fraction / WARMUP_SHARE)) * decay


def local(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a sharded tensor, in the same memory; another tensor as it is."""
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()


class Parameters(Protocol):
    """Module, or anything else with named parameters."""

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Return names and parameters."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters in the same order."""


class Average:
    """Exponential moving average of a module's weights, with a lower decay in the first steps."""

    def __init__(self, module: Parameters, decay: float) -> None:
        self.decay = decay
        self.weights = {n: p.detach().clone() for n, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: Parameters, step: int) -> None:
        """Average in the weights after step number `step`."""
        decay = min(self.decay, (step + 1) / (step + 20))
        averages, weights = map(local, self.weights.values()), map(local, module.parameters())
        torch._foreach_lerp_(list(averages), list(weights), 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: Parameters) -> None:
        """Write the averaged weights into `module`."""
        for name, p in module.named_parameters():
            p.copy_(self.weights[name])

    def load(self, weights: dict[str, Tensor]) -> None:
        """Restore averaged weights."""
        for name, value in weights.items():
            self.weights[name].copy_(value)
