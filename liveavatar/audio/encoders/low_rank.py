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


class LowRank(nn.Module):
    """Correction of one weight matrix; it begins as zero."""

    def __init__(self, shape: torch.Size, rank: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(shape[0], rank))
        self.down = nn.Parameter(torch.randn(rank, shape[1]) * shape[1] ** -0.5)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the corrected weight."""
        return weight + self.up @ self.down


def attach(encoder: nn.Module, rank: int) -> list[nn.Parameter]:
    """Freeze a network, attach corrections to all of its linear layers and return their parameters."""
    encoder.requires_grad_(False)
    found: list[nn.Parameter] = []
    for module in [m for m in encoder.modules() if isinstance(m, nn.Linear)]:
        correction = LowRank(module.weight.shape, rank).to(module.weight.device)
        parametrize.register_parametrization(module, "weight", correction)
        found += correction.parameters()
    return found


def save(path: Path, encoder: nn.Module) -> None:
    """Write the corrections attached to a network, float16."""
    layers = {name: m for name, m in encoder.named_modules() if parametrize.is_parametrized(m, "weight")}
    tensors: dict[str, Tensor] = {}
    for name, module in layers.items():
        correction = module.parametrizations["weight"][0]
        tensors |= {f"{name}.{part}": getattr(correction, part).detach().half().cpu() for part in (UP, DOWN)}
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
    with torch.no_grad():
        for name in {key.rpartition(".")[0] for key in tensors}:
            try:
                weight = encoder.get_parameter(f"{name}.weight")
                weight.add_((tensors[f"{name}.{UP}"] @ tensors[f"{name}.{DOWN}"]).to(weight.device))
            except (AttributeError, KeyError, RuntimeError) as e:
                raise CheckpointError(f"{path}: {name} does not fit the speech encoder ({e}); copy it again") from e
