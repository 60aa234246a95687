"""Memory of a process that renders: read on a CPU and on a GPU that is played, said in words, warned of in time."""

from dataclasses import replace

import pytest
import torch

from liveavatar.engine import memory
from liveavatar.engine.memory import MemoryReading, in_words, process_gb, read_memory, shortages
from liveavatar.hardware import GB

ROOMY = MemoryReading(1.24, 3.1, 16.0)
CARD = replace(ROOMY, gpu_used=21.3, gpu_total=24.0, gpu_left=2.0)


def test_a_process_on_the_cpu_is_read_with_its_machine() -> None:
    held = torch.ones(50 * 2**20 // 4)
    reading = read_memory(torch.device("cpu"))
    assert 0.05 < reading.process < reading.host_total
    assert 0 < reading.host_used < reading.host_total
    assert (reading.gpu_used, reading.gpu_total, reading.gpu_left) == (0, 0, 0)
    assert reading.process == pytest.approx(process_gb(), abs=0.02)
    assert held[0] == 1


@pytest.mark.parametrize(
    ("share", "left"),
    [
        pytest.param(1.0, 5.0, id="what is free, and what the allocator holds for later"),
        pytest.param(0.5, 2.0, id="no more than its own limit"),
    ],
)
def test_a_gpu_is_read(share: float, left: float, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = {"mem_get_info": (3 * GB, 24 * GB), "memory_allocated": 10 * GB, "memory_reserved": 12 * GB}
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    # like PyTorch's own, this one takes no device without an index
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", {torch.device("cuda", 0): share}.__getitem__)
    reading = read_memory(torch.device("cuda", 0))
    current = read_memory(torch.device("cuda"))
    assert (current.gpu_used, current.gpu_total, current.gpu_left) == (21, 24, left), "the current GPU"
    assert (reading.gpu_used, reading.gpu_total, reading.gpu_left) == (21, 24, left)


def test_where_the_system_does_not_tell_the_largest_size_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "STATM", memory.STATM / "nothing")
    assert process_gb() >= 0.05


@pytest.mark.parametrize(
    ("readings", "text"),
    [
        pytest.param((), "", id="nothing read yet"),
        pytest.param((ROOMY,), "1.2 GB; machine 3.1 of 16.0 GB", id="a CPU"),
        pytest.param((CARD,), "1.2 GB, GPU 21.3 of 24.0 GB; machine 3.1 of 16.0 GB", id="a GPU"),
        pytest.param(
            (CARD, replace(CARD, gpu_used=9.0, host_used=15.0)),
            "rank 0: 1.2 GB, GPU 21.3 of 24.0 GB; rank 1: 1.2 GB, GPU 9.0 of 24.0 GB; machine 15.0 of 16.0 GB",
            id="two ranks, the fuller machine",
        ),
    ],
)
def test_memory_in_words(readings: tuple[MemoryReading, ...], text: str) -> None:
    assert in_words(readings) == text


@pytest.mark.parametrize(
    ("readings", "short"),
    [
        pytest.param((), [], id="nothing read yet"),
        pytest.param((ROOMY, CARD), [], id="room"),
        pytest.param((CARD, replace(CARD, gpu_used=23.8, gpu_left=0.2)), ["gpu 1"], id="a full GPU"),
        pytest.param((replace(CARD, gpu_used=23.8),), [], id="a GPU full of what the allocator can use again"),
        pytest.param((replace(ROOMY, host_used=14.5),), ["host"], id="a full machine"),
        pytest.param((MemoryReading(300.0, 509.0, 512.0),), [], id="3 GB left of many"),
        pytest.param((MemoryReading(300.0, 510.5, 512.0),), ["host"], id="a large machine that is full"),
        pytest.param((replace(CARD, host_used=15.9, gpu_left=0.0),) * 2, ["gpu 0", "gpu 1", "host"], id="everything"),
    ],
)
def test_a_warning_comes_before_memory_runs_out(readings: tuple[MemoryReading, ...], short: list[str]) -> None:
    warnings = shortages(readings)
    assert sorted(warnings) == short
    assert all("nearly full" in text and "end other programs" in text for text in warnings.values())
