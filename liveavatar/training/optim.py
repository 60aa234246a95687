"""Optimisers of all stages: Muon for matrices and convolutions, AdamW for the rest, EMA, the rate schedule.

Muon (K. Jordan, 2024): momentum, then the nearest semi-orthogonal matrix of the update through five
Newton-Schulz steps. Equal shapes are orthogonalised together, as one batched product.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic coefficients of the Muon paper
NEWTON_SCHULZ_STEPS = 5
WARMUP_STEPS, WARMUP_SHARE = 100, 0.03


def orthogonalise(update_NAB: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices of a stack of updates, approximately (singular values 0.7 to 1.2)."""
    a, b, c = NEWTON_SCHULZ
    x = update_NAB.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(update_NAB.dtype)


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum; convolutions count as [out, in*k*k] matrices."""

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply one update; `closure` is not supported."""
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.shape[0], p[0].numel()].append(p)
            for (rows, cols), params in by_shape.items():
                self._step_shape(group, params, rows, cols)

    def _step_shape(self, group: dict[str, Any], params: list[nn.Parameter], rows: int, cols: int) -> None:
        buffers = []
        for p in params:
            state = self.state[p]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(p)
            buffers.append(state["momentum"])
        grads = [p.grad for p in params if p.grad is not None]
        torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
        nesterov = torch._foreach_lerp(grads, buffers, group["momentum"])
        stacked = torch.stack([n.reshape(rows, cols) for n in nesterov])
        updates = orthogonalise(stacked).unbind(0)
        tensors: list[Tensor] = list(params)
        torch._foreach_mul_(tensors, 1 - group["lr"] * group["weight_decay"])
        scale = group["lr"] * max(1.0, rows / cols) ** 0.5
        torch._foreach_add_(tensors, [u.view(p.shape) for u, p in zip(updates, params, strict=True)], alpha=-scale)


class Optimisers:
    """Muon over matrices inside the network, AdamW over everything else, one rate factor for both."""

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], *, muon: float, adamw: float, outer: Callable[[str], bool]
    ):
        """Split parameters: at least 2-D and not `outer(name)` go to Muon at rate `muon`, others to AdamW."""
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
            self.parts.append(Muon(inner, muon))
            self.rates.append(muon)

    def step(self, factor: float, clip: float = 1.0) -> Tensor:
        """Clip the gradients to norm `clip`, step at `factor` times the base rates, clear; returns the norm."""
        norm = nn.utils.clip_grad_norm_(self.params, clip)
        for part, rate in zip(self.parts, self.rates, strict=True):
            for group in part.param_groups:
                group["lr"] = rate * factor
            part.step()
            part.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return {str(i): part.state_dict() for i, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for i, part in enumerate(self.parts):
            part.load_state_dict(state[str(i)])


def rate_factor(step: int, fraction: float) -> float:
    """Rise over `WARMUP_STEPS` or 3 % of the budget, whichever is shorter; flat to the half; then linear to 2 %."""
    decay = 1.0 if fraction < 0.5 else max(0.02, 2 * (1 - fraction))
    return min(1.0, max((step + 1) / WARMUP_STEPS, fraction / WARMUP_SHARE)) * decay


class Average:
    """Exponential moving average of a module's weights; early steps weigh little."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {n: p.detach().clone() for n, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Blend in the weights after step number `step`."""
        decay = min(self.decay, (step + 1) / (step + 20))
        torch._foreach_lerp_(list(self.weights.values()), [p.detach() for p in module.parameters()], 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Write the averaged weights into `module`."""
        for name, p in module.named_parameters():
            p.copy_(self.weights[name])

    def load(self, weights: dict[str, Tensor]) -> None:
        """Restore averaged weights."""
        for name, value in weights.items():
            self.weights[name].copy_(value)
