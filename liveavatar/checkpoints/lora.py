"""LoRA: parsing of the key forms in use, and merging into base weights.

A pair A [rank, in], B [out, rank] changes the weight of one Linear by (alpha / rank) * B @ A. Biases are
never touched. Accepted keys are PEFT's, `<module>.lora_A.default.weight`, with or without `.default` and
with or without the prefix `base_model.model.`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from liveavatar.errors import CheckpointError

RELEASED_ALPHA = 64.0  # of the published file, rank 128; its training settings hold it, the file does not

_KEY = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight$")


@dataclass(frozen=True, slots=True)
class LowRank:
    """Low-rank update of one Linear's weight."""

    a: Tensor  # [rank, in]
    b: Tensor  # [out, rank]
    scale: float  # alpha / rank

    def apply(self, weight: Tensor) -> Tensor:
        """Return the updated weight in its own dtype, computed in fp32 on its device."""
        a, b = self.a.to(weight.device, torch.float32), self.b.to(weight.device, torch.float32)
        return (weight.float() + self.scale * (b @ a)).to(weight.dtype)


def parse_lora(tensors: Mapping[str, Tensor], alpha: float, rank: int | None = None) -> dict[str, LowRank]:
    """Group the tensors of a LoRA file by the weight they change.

    Args:
        tensors: the file's tensors.
        alpha: strength of the update.
        rank: rank it was trained with; read off each pair when None.

    Returns:
        {"<module>.weight": update}.

    Raises:
        CheckpointError: when a key is no LoRA key, half of a pair is missing, or ranks differ.
    """
    sides: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.match(key)
        if match is None:
            raise CheckpointError(
                f"the LoRA file holds {key}, which is no low-rank pair (<module>.lora_A|B[.default].weight); "
                "give the file published for Live Avatar"
            )
        sides.setdefault(match["module"], {})[match["side"]] = tensor
    updates = {}
    for module, pair in sides.items():
        if pair.keys() != {"A", "B"}:
            raise CheckpointError(f"the LoRA file holds only one half of {module}; it is incomplete, fetch it again")
        a, b = pair["A"], pair["B"]
        pair_rank = a.shape[0]
        if a.ndim != 2 or b.ndim != 2 or b.shape[1] != pair_rank or (rank is not None and rank != pair_rank):
            expected = "" if rank is None else f", wanted rank {rank}"
            raise CheckpointError(
                f"the LoRA of {module} has shapes A {tuple(a.shape)} and B {tuple(b.shape)}{expected}; "
                "give the rank it was trained with, or the file published for Live Avatar"
            )
        updates[f"{module}.weight"] = LowRank(a, b, alpha / pair_rank)
    return updates


def check_targets(updates: Mapping[str, LowRank], shapes: Mapping[str, torch.Size]) -> None:
    """Compare the names and shapes of updates with those of the weights.

    Raises:
        CheckpointError: naming the first few updates without a weight, or of another shape.
    """
    unknown = [k for k in updates if k not in shapes]
    wrong = [
        f"{k} {[u.b.shape[0], u.a.shape[1]]} instead of {list(shapes[k])}"
        for k, u in updates.items()
        if k in shapes and (u.b.shape[0], u.a.shape[1]) != tuple(shapes[k])
    ]
    if unknown or wrong:
        raise CheckpointError(
            f"the LoRA is for another model: {_some(unknown, 'unknown')}{_some(wrong, 'of another shape')}"
            "give the one published for this checkpoint"
        )


def _some(names: Iterable[str], what: str) -> str:
    listed = list(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return f"{', '.join(listed[:3])}{more} {what}; " if listed else ""


def merge_lora(
    state_dict: dict[str, Tensor], lora_dict: Mapping[str, Tensor], rank: int | None, alpha: float
) -> list[str]:
    """Add a LoRA to the weights of `state_dict`, in place, tensor by tensor.

    Args:
        state_dict: base weights by name.
        lora_dict: the LoRA file's tensors.
        rank: rank it was trained with; None reads it off each pair.
        alpha: its strength; a weight changes by alpha / rank * B @ A.

    Returns:
        Names of the changed weights.

    Raises:
        CheckpointError: when the LoRA is damaged or for another model; nothing is changed then.
    """
    updates = parse_lora(lora_dict, alpha, rank)
    check_targets(updates, {k: v.shape for k, v in state_dict.items()})
    for key, update in updates.items():
        state_dict[key] = update.apply(state_dict[key])
    return list(updates)
