"""The device and dtype of an engine: as named, else what the machine has."""

from typing import Any

import pytest
import torch

from liveavatar.engine.device import pick_device, pick_dtype
from liveavatar.errors import InputError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "has_gpu", "device"),
    [
        pytest.param("auto", False, "cpu", id="auto without a GPU"),
        pytest.param("auto", True, "cuda", id="auto with a GPU"),
        pytest.param("cpu", True, "cpu", id="the CPU beside a GPU"),
        pytest.param("cuda:1", True, "cuda:1", id="the second GPU"),
    ],
)
def test_a_device_is_picked(name: str, has_gpu: bool, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert pick_device(name) == torch.device(device)


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=f"device {name}: PyTorch sees no GPU here; use --device cpu"):
        pick_device(name)


@pytest.mark.parametrize(
    ("name", "device", "native", "dtype"),
    [
        pytest.param("float32", torch.device("cuda"), True, torch.float32, id="as named"),
        pytest.param("bfloat16", CPU, False, torch.bfloat16, id="as named, on a CPU that only emulates it"),
        pytest.param("auto", CPU, True, torch.bfloat16, id="a CPU that computes bfloat16"),
        pytest.param("auto", CPU, False, torch.float32, id="a CPU that does not"),
        pytest.param("auto", torch.device("cuda"), False, torch.bfloat16, id="a GPU"),
    ],
)
def test_a_dtype_is_picked(
    name: str, device: torch.device, native: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mkldnn:
        def __getattr__(self, asked: str) -> Any:
            return lambda: native

    monkeypatch.setattr(torch.ops, "mkldnn", Mkldnn())
    assert pick_dtype(name, device) == dtype
