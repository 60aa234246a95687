"""The exported adapters are the student's average, in a file that the product merges."""

from pathlib import Path

import torch

from liveavatar.checkpoints.lora import check_targets, parse_lora
from liveavatar.checkpoints.weight_files import read_tensors
from liveavatar.files import read_json
from liveavatar.training import runtime
from liveavatar.training.optim import local
from liveavatar.training.sharded.adapters import base_of
from liveavatar.training.sharded.export import export_adapters
from tests.training.sharded.conftest import Build, disturb


def test_the_average_becomes_the_published_file(build: Build, lone_rank: runtime.TrainRank, tmp_path: Path) -> None:
    state = build()
    disturb(state)
    state.student.average.update(state.student.adapters, 0)
    path = export_adapters(tmp_path / "adapter", state.student, state.student.net.shape, lone_rank)
    assert path.name == "liveavatar.safetensors"
    tensors = dict(read_tensors([path]))
    settings = read_json(path.with_name("adapter_config.json"))
    updates = parse_lora(tensors, settings["lora_alpha"], settings["r"])
    check_targets(updates, {name: p.shape for name, p in base_of(state.student.net.dit).items()})
    for name, value in state.student.average.weights.items():
        assert torch.equal(tensors[name], local(value).bfloat16())
    weights = [local(p) for p in state.student.adapters.parameters()]
    assert not torch.equal(next(iter(tensors.values())), weights[0].bfloat16())
