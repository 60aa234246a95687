"""Low-rank adapters on the Linears of a frozen transformer: several sets, of which one is in use or none.

Student, fake score and teacher are one network: the base with the set `student`, with the set `fake`, and alone. A pair
A [rank, in], B [out, rank] adds alpha / rank * B A x to the Linear's output. The Linears, names and strength are those
of the published adapter, so a trained set is a file that the product renders with (`liveavatar.checkpoints.lora`).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liveavatar.checkpoints.lora import LowRank
from liveavatar.model.dit import CausalDiT

STUDENT, FAKE = "student", "fake"  # sets; the teacher is the base alone
SETS = (STUDENT, FAKE)
ADAPTED = re.compile(r"blocks\.\d+\.((self|cross)_attn\.[qkvo]|ffn\.[02])|audio_injector\.injector\.\d+\.[qkvo]")
ADAPTER = re.compile(r"(?P<module>.+)\.adapters\.(?P<set>\w+)\.(?P<side>[ab])$")


class Switch:
    """Choice of the set that is in use."""

    def __init__(self) -> None:
        self.chosen: str | None = None

    @contextmanager
    def choose(self, chosen: str | None) -> Iterator[None]:
        """Use a set, or none, inside the block."""
        before, self.chosen = self.chosen, chosen
        try:
            yield
        finally:
            self.chosen = before


class LowRankPair(nn.Module):
    """Weights of one set for one Linear, fp32."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        device = linear.weight.device
        self.a = nn.Parameter(torch.empty(rank, linear.in_features, device=device, dtype=torch.float32))
        self.b = nn.Parameter(torch.empty(linear.out_features, rank, device=device, dtype=torch.float32))


@dataclass(frozen=True, slots=True)
class AdapterShape:
    """Rank and strength of a set."""

    rank: int = 128
    alpha: float = 64.0

    @property
    def scale(self) -> float:
        """Factor of B A."""
        return self.alpha / self.rank


def attach(dit: CausalDiT, shape: AdapterShape, switch: Switch) -> None:
    """Freeze a transformer and give each adapted Linear one pair a set, on its device, without initial values."""
    dit.requires_grad_(False)
    for name, module in list(dit.named_modules()):
        if isinstance(module, nn.Linear) and ADAPTED.fullmatch(name):
            module.add_module("adapters", nn.ModuleDict({s: LowRankPair(module, shape.rank) for s in SETS}))
            module.register_forward_hook(partial(_adapt, switch, shape.scale))


def _adapt(switch: Switch, scale: float, linear: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    if switch.chosen is None:
        return output
    pair = linear.get_submodule(f"adapters.{switch.chosen}")
    return output + F.linear(scale * F.linear(inputs[0], pair.a), pair.b)  # type: ignore[arg-type]


def adapters_of(dit: CausalDiT, chosen: str) -> dict[str, nn.Parameter]:
    """Return a set's parameters under the names of PEFT's files: `<module>.lora_A.default.weight`."""
    found = {}
    for name, parameter in dit.named_parameters():
        match = ADAPTER.fullmatch(name)
        if match and match["set"] == chosen:
            found[f"{match['module']}.lora_{match['side'].upper()}.default.weight"] = parameter
    return found


def base_of(dit: CausalDiT) -> dict[str, nn.Parameter]:
    """Return the frozen parameters under their names in a checkpoint."""
    return {name: p for name, p in dit.named_parameters() if not ADAPTER.fullmatch(name)}


def initial_pair(parameter_shape: torch.Size, side: str, generator: torch.Generator) -> Tensor:
    """Draw the initial values of A (uniform, as PEFT's); B is zero, so that a new set changes nothing."""
    device = generator.device
    if side == "B":
        return torch.zeros(parameter_shape, device=device)
    reach = parameter_shape[1] ** -0.5
    return reach * (2 * torch.rand(parameter_shape, device=device, generator=generator) - 1)


def given_pair(update: LowRank, side: str, shape: AdapterShape) -> Tensor:
    """Return A or B of a pair that was trained elsewhere, at this run's strength.

    Args:
        update: the pair.
        side: "A" or "B".
        shape: of this run; a smaller rank is filled up with zeros.
    """
    matrix = update.a.float() if side == "A" else update.b.float() * (update.scale / shape.scale)
    missing = shape.rank - len(update.a)
    return F.pad(matrix, (0, 0, 0, missing) if side == "A" else (0, missing))
