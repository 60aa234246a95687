"""Room for another engine: which resident engines are ended; and for other programs: how much memory is left."""

from types import SimpleNamespace

import pytest
import torch

from liveavatar.hardware import GB
from tasks.cluster import room
from tasks.cluster.room import gpu_is_free, limit_memory, to_end

NAMES = ["engine-a-auto", "group-b-auto-2-77-0", "group-b-auto-2-77-1", "engine-c-auto", "engine-c-auto-1"]
GROUP = ["group-b-auto-2-77-0", "group-b-auto-2-77-1"]


@pytest.mark.parametrize(
    ("missing", "busy", "ended"),
    [
        pytest.param(0, (), [], id="there is room"),
        pytest.param(-2, (), [], id="more than enough"),
        pytest.param(1, (), [["engine-a-auto"]], id="one is enough"),
        pytest.param(2, (), [["engine-a-auto"], GROUP], id="a group as a whole"),
        pytest.param(1, ("engine-a-auto",), [GROUP], id="a busy one stays"),
        pytest.param(1, ("engine-a-auto", "group-b-auto-2-77-1"), [["engine-c-auto"]], id="a rank is busy"),
        pytest.param(9, ("engine-a-auto",), [GROUP, ["engine-c-auto"], ["engine-c-auto-1"]], id="all that are idle"),
    ],
)
def test_idle_engines_are_ended_until_there_is_room(
    missing: float, busy: tuple[str, ...], ended: list[list[str]]
) -> None:
    assert to_end(NAMES, missing, lambda name: name not in busy) == ended


@pytest.mark.parametrize(
    ("free", "is_free"),
    [
        pytest.param([1.0], True, id="one is free"),
        pytest.param([0.0, 0.0, 1.0], True, id="once an engine has ended"),
        pytest.param([0.0] * 200, False, id="all are taken"),
    ],
)
def test_a_gpu_is_waited_for_while_engines_end(
    free: list[float], is_free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, slept = iter(free), list[float]()
    monkeypatch.setattr(room.ray, "available_resources", lambda: {"GPU": next(looks)})
    monkeypatch.setattr(room.time, "sleep", slept.append)
    monkeypatch.setattr(room.time, "monotonic", lambda: sum(slept))
    assert gpu_is_free() == is_free
    assert sum(slept) <= room.SETTLE_SECONDS + 2 * room.PAUSE_SECONDS


@pytest.mark.parametrize(
    ("device", "leave_gb", "has_gpu", "share"),
    [
        pytest.param("auto", 6.0, True, [pytest.approx(16.15 / 24)], id="a GPU"),
        pytest.param("auto", 30.0, True, [0.0], id="more than it has"),
        pytest.param("auto", 0.0, True, [], id="nothing to leave"),
        pytest.param("cpu", 6.0, True, [], id="the CPU beside a GPU"),
        pytest.param("auto", 6.0, False, [], id="no GPU"),
    ],
)
def test_memory_is_left_to_other_programs(
    device: str, leave_gb: float, has_gpu: bool, share: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    limited: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=24 * GB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limited.append)
    limit_memory(device, leave_gb)
    assert limited == share
