"""Low-rank corrections of a speech encoder's linear layers (LoRA, arXiv 2106.09685), and the file that holds them.

The weights of a layer become W + U D, U [out, rank] and D [rank, in]. Training updates U and D alone; a model directory
holds them in `FILE`, a few MB beside the encoder that comes with a package.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from liveavatar.errors import CheckpointError

FILE = "speech.safetensors"
UP, DOWN = "up", "down"


class WeightCorrection(nn.Module):
    """Correction of one weight matrix; it begins as zero."""

    def __init__(self, shape: torch.Size, rank: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(shape[0], rank))
        self.down = nn.Parameter(torch.randn(rank, shape[1]) * shape[1] ** -0.5)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the corrected weight."""
        return weight + self.up @ self.down


def linear_layers(encoder: nn.Module) -> dict[str, nn.Linear]:
    """Find all linear layers of a network, by name."""
    return {name: module for name, module in encoder.named_modules() if isinstance(module, nn.Linear)}


def attach(encoder: nn.Module, rank: int) -> list[nn.Parameter]:
    """Freeze a network, attach corrections to all of its linear layers and return their parameters."""
    encoder.requires_grad_(False)
    found: list[nn.Parameter] = []
    for layer in linear_layers(encoder).values():
        correction = WeightCorrection(layer.weight.shape, rank).to(layer.weight.device)
        parametrize.register_parametrization(layer, "weight", correction)
        found += correction.parameters()
    return found


def save(path: Path, encoder: nn.Module) -> None:
    """Write the corrections attached to a network, float16."""
    tensors: dict[str, Tensor] = {}
    for name, layer in linear_layers(encoder).items():
        parts = {part: layer.get_parameter(f"parametrizations.weight.0.{part}") for part in (UP, DOWN)}
        tensors |= {f"{name}.{part}": value.detach().half().cpu() for part, value in parts.items()}
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)


def add(encoder: nn.Module, path: Path) -> None:
    """Add the corrections of a file to the weights of a network.

    Raises:
        CheckpointError: the file is missing, damaged, or of another network.
    """
    try:
        with safe_open(path, "pt") as f:
            tensors = {name: f.get_tensor(name).float() for name in f.keys()}  # noqa: SIM118 (no iterator there)
    except (OSError, SafetensorError) as e:
        raise CheckpointError(f"{path} holds no corrections of a speech encoder ({e}); copy it again") from e
    layers = linear_layers(encoder)
    faults = sorted({f"{name}.{part}" for name in layers for part in (UP, DOWN)} ^ tensors.keys())
    if not faults:
        pairs = {name: (tensors[f"{name}.{UP}"], tensors[f"{name}.{DOWN}"]) for name in layers}
        faults = [name for name, (up, down) in pairs.items() if not _fits(up, down, layers[name].weight.shape)]
    if faults:
        raise CheckpointError(
            f"{path} holds corrections of another speech encoder ({', '.join(faults[:4])}); copy the file that came "
            "with the model"
        )
    with torch.no_grad():
        for name, (up, down) in pairs.items():
            layers[name].weight.add_((up @ down).to(layers[name].weight.device))


def _fits(up: Tensor, down: Tensor, shape: torch.Size) -> bool:
    return up.ndim == down.ndim == 2 and up.shape[1] == down.shape[0] and (up.shape[0], down.shape[1]) == shape
