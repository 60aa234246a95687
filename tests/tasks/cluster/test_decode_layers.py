"""The weight of the decoder: the planner's, for the GPU that is there."""

from types import SimpleNamespace

import pytest
import torch

from liveavatar.config import LIVE_AVATAR_14B
from liveavatar.hardware import GB, as_installed, gpu_of
from liveavatar.planning.speed import decode_layers
from tasks.cluster.decode_layers import decode_layers_for


@pytest.mark.parametrize("fp8", [False, True])
def test_it_is_predicted_for_the_gpu_and_precision_of_the_rank(fp8: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(total_memory=int(141 * GB))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA H200 {device.index}")
    predict = decode_layers_for(LIVE_AVATAR_14B, torch.device("cuda", 3), fp8)
    rates = as_installed(gpu_of("NVIDIA H200", 141.0)).rates
    for size in ((384, 256), (720, 400)):
        assert predict(*size, "bf16") == decode_layers(LIVE_AVATAR_14B, rates, fp8, *size, "bf16")
    assert predict(720, 400, "bf16") != predict(720, 400, "int8")
