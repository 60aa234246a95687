"""Encoded clips of a training run, and their files.

Does not know the encoding of clips (`latents`) or the use of their windows.

Shapes: n clips, C latent channels, T latents, h/w latent cells.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from liveavatar.errors import InputError
from liveavatar.training import runtime


@dataclass(slots=True)
class LatentSet:
    """Encoded clips of one orientation; latents are normalised, fp16."""

    latents: Tensor  # [n, C, T, h, w]
    reference: Tensor  # [n, C, 1, h, w]
    weights: Tensor  # [n, T, h, w]
    head: Tensor  # [n, T, 3] mean yaw, pitch, roll of each latent, radians, counted from the config's `pose_origin`
    eyes: Tensor  # [n, T, 3] eye tracks, the mean of each latent
    mouth: Tensor  # [n, T, 8] see `face_values.mouth_track`
    tracks: Tensor  # [n]
    blocks: Tensor  # [n]
    tokens: Tensor  # [n, text length]
    other: Tensor  # [n, C, 1, h, w] the other photo; equal to the reference where there is none
    other_tokens: Tensor  # [n, text length]

    def to(self, device: torch.device) -> "LatentSet":
        """Move every tensor."""
        return LatentSet(*(getattr(self, f).to(device) for f in self.__dataclass_fields__))

    def tensors(self) -> dict[str, Tensor]:
        """Return a plain dict, for saving."""
        return {f: getattr(self, f) for f in self.__dataclass_fields__}


def join(sets: list[LatentSet]) -> LatentSet:
    """Concatenate sets of one orientation."""
    return LatentSet(*(torch.cat([getattr(s, f) for s in sets]) for f in LatentSet.__dataclass_fields__))


def save_latents(path: Path, sets: list[LatentSet]) -> None:
    """Write sets to one file for `load_latents`."""
    runtime.save_checkpoint(path, {"sets": [s.tensors() for s in sets]})


def load_latents(folder: Path, split: str, device: torch.device, rank: int = 0, world: int = 1) -> list[LatentSet]:
    """Load a rank's share of the files of all encoding ranks, one set per orientation.

    Raises:
        InputError: when there are fewer files than ranks.
    """
    files = sorted(folder.glob(f"latents_{split}_*.pt"))[rank::world]
    if not files:
        raise InputError(
            f"{folder} holds too few files latents_{split}_*.pt for {world} processes; encode with as many"
        )
    by_size: dict[tuple[int, ...], list[LatentSet]] = {}
    for file in files:
        for s in torch.load(file, map_location=device, weights_only=True)["sets"]:
            by_size.setdefault(tuple(s["latents"].shape[1:]), []).append(LatentSet(**s))
    return [join(sets) for _, sets in sorted(by_size.items())]
