"""Random weights of a model's parts, and LoRA pairs."""

import torch
from torch import Tensor

from liveavatar.checkpoints.load import build_part
from liveavatar.checkpoints.weight_files import module_shapes
from liveavatar.config import ModelConfig

TARGETS = {"blocks.0.self_attn.q": torch.Size((6, 6)), "blocks.0.ffn.0": torch.Size((8, 6))}
PLAIN = "{}.lora_{}.default.weight"


def random_weights(config: ModelConfig, part: str, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = module_shapes(build_part(config, part))
    return {name: torch.randn(*shape, generator=generator) * 0.1 for name, shape in shapes.items()}


def lora_pairs(shapes: dict[str, torch.Size], rank: int, form: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for name, (rows, columns) in shapes.items():
        tensors[form.format(name, "A")] = torch.randn(rank, columns, generator=generator)
        tensors[form.format(name, "B")] = torch.randn(rows, rank, generator=generator)
    return tensors
