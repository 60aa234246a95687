"""Export of the student's averaged adapters as the file that the product renders with."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from liveavatar.checkpoints.released import LORA_NAME
from liveavatar.files import replacing, write_json
from liveavatar.training import runtime
from liveavatar.training.sharded.adapters import AdapterShape
from liveavatar.training.sharded.network import Role, whole_tensors


def export_adapters(folder: Path, student: Role, shape: AdapterShape, rank: runtime.TrainRank) -> Path:
    """Write the averaged adapters, bf16, and `adapter_config.json`, as PEFT does. Every rank must call it.

    Beside the published base the folder is found by `liveavatar render --model`: its file has the published name.
    """
    assert student.average is not None
    tensors: dict[str, Tensor] = {}

    def keep(name: str, tensor: Tensor) -> None:
        if rank.first:
            tensors[name] = tensor.to("cpu", torch.bfloat16).contiguous()

    whole_tensors(student.average.weights, keep)
    path = folder / LORA_NAME
    if rank.first:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})
        write_json(folder / "adapter_config.json", {"r": shape.rank, "lora_alpha": shape.alpha, "peft_type": "LORA"})
    rank.barrier()
    return path
