"""Loading for a GPU: refused where 8 bits are not there, quantised on the host where there is no room beside."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from liveavatar.checkpoints.load import LoadedModel
from liveavatar.config import LIVE_AVATAR_14B
from liveavatar.errors import CapacityError
from liveavatar.fast import load
from liveavatar.fast.load import dit_bytes, load_fast_model
from liveavatar.model.dit import CausalDiT
from tests.fast.small import SMALL_DIT

GPU = torch.device("cuda:0")
MODEL = Path("large")
PARTS = ("dit", "vae", "text")
CONFIG = replace(LIVE_AVATAR_14B, dit=SMALL_DIT)
WHOLE = dit_bytes(SMALL_DIT)


class Machine:
    """A GPU with so much free memory; it records what is loaded and how it is made fast."""

    def __init__(self, free: float) -> None:
        self.free, self.share = free, 1.0
        self.loaded: list[tuple[str, tuple[str, ...]]] = []
        self.options: dict[str, Any] = {}
        self.layers: range | None = None  # of the transformer that are read

    def load_model(
        self,
        model_dir: Path,
        device: torch.device | str,
        dtype: torch.dtype,
        parts: tuple[str, ...],
        layers: range | None = None,
    ) -> LoadedModel:
        assert (model_dir, dtype) == (MODEL, torch.bfloat16)
        self.layers = layers
        self.loaded.append((str(device), parts))
        return LoadedModel(config=CONFIG, **dict.fromkeys(parts, "plain"))

    def accelerate(self, dit: object, **options: Any) -> str:
        assert dit == "plain"
        self.options = options
        return "fast"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(free=1.0)
    monkeypatch.setattr(load, "load_model", made.load_model)
    monkeypatch.setattr(load, "accelerate", made.accelerate)
    monkeypatch.setattr(load.ops, "has_fp8", lambda device: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(made.free), 10 * WHOLE))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: [made.share][device.index])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    return made


def test_weights_are_counted_in_16_bits() -> None:
    weights = CausalDiT(SMALL_DIT).to(torch.bfloat16).parameters()
    assert sum(p.numel() * p.element_size() for p in weights) == WHOLE


@pytest.mark.parametrize(
    ("options", "free", "device"),
    [
        pytest.param({}, 1, "cuda:0", id="16 bits go to the GPU, which may be too small"),
        pytest.param({"fp8": True}, 1.2 * WHOLE, "cuda:0", id="8 bits, with room to quantise"),
        pytest.param({"fp8": True}, 1.05 * WHOLE, "cpu", id="8 bits, without"),
        pytest.param({"offload": True}, 1.2 * WHOLE, "cpu", id="offloaded"),
    ],
)
def test_the_transformer_is_read_to_where_there_is_room(
    options: dict[str, bool], free: float, device: str, machine: Machine
) -> None:
    machine.free = free
    model = load_fast_model(MODEL, GPU, torch.bfloat16, PARTS, **options)
    assert machine.loaded == [("cuda:0", ("vae", "text")), (device, ("dit",))]
    assert (model.dit, model.vae, model.text) == ("fast", "plain", "plain")
    assert machine.options == {"device": GPU, "fp8": False, "offload": False, "attention": None} | options


def test_a_rank_reads_its_own_layers_and_counts_their_room(machine: Machine) -> None:
    own = range(1)
    assert dit_bytes(SMALL_DIT, own) < 0.8 * WHOLE
    machine.free = 1.2 * dit_bytes(SMALL_DIT, own)
    load_fast_model(MODEL, GPU, torch.bfloat16, PARTS, fp8=True, layers=own)
    assert (machine.loaded[-1], machine.layers) == (("cuda:0", ("dit",)), own)


def test_memory_that_is_left_to_others_is_no_room(machine: Machine) -> None:
    machine.free, machine.share = 1.9 * WHOLE, 0.92
    load_fast_model(MODEL, GPU, torch.bfloat16, PARTS, fp8=True)
    assert machine.loaded[-1] == ("cpu", ("dit",)), "0.8 of the weights are kept free"


def test_a_rank_without_steps_loads_no_transformer(machine: Machine) -> None:
    model = load_fast_model(MODEL, GPU, torch.bfloat16, ("vae", "text"))
    assert machine.loaded == [("cuda:0", ("vae", "text"))]
    assert model.dit is None


def test_a_gpu_without_8_bits_is_refused_before_anything_loads(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load.ops, "has_fp8", lambda device: "it is too old")
    with pytest.raises(CapacityError, match="--fp8: it is too old; drop --fp8"):
        load_fast_model(MODEL, GPU, torch.bfloat16, PARTS, fp8=True)
    assert not machine.loaded
    load_fast_model(MODEL, GPU, torch.bfloat16, PARTS)  # which asks for nothing of the kind


def test_a_gpu_that_is_too_small_is_named(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(dit: object, **_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(load, "accelerate", full)
    with pytest.raises(CapacityError, match="large does not fit the memory of a GPU; try --offload_model True"):
        load_fast_model(MODEL, GPU, torch.bfloat16, PARTS)
