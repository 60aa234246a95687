"""Room on the GPUs for another engine, and for other programs.

Resident engines that render nothing are ended until enough GPUs are free.

An engine stays for the next job and keeps its GPUs. A job of another model, precision or number of GPUs would wait for
them.
"""

import logging
import re
import time
from collections.abc import Callable, Iterable

import ray
from ray.exceptions import RayError

from liveavatar.hardware import GB, RESERVE_GB
from tasks.cluster.head import NAMESPACE

log = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0  # an engine that does not say so soon that it is idle counts as busy
SETTLE_SECONDS, PAUSE_SECONDS = 10.0, 0.2  # for Ray to notice the end of an engine; between two looks


def make_room(num_gpus: int) -> None:
    """End idle engines until so many GPUs of the cluster are free, or no idle one is left."""
    free = float(ray.available_resources().get("GPU", 0))
    for names in to_end(ray.util.list_named_actors(), num_gpus - free, is_idle):
        log.info("the resident engine %s makes room for another", names[0])
        for name in names:
            end_actor(name)


def gpu_is_free() -> bool:
    """Tell if a GPU of the cluster is free, or becomes so while engines that were told to end are ending."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while float(ray.available_resources().get("GPU", 0)) < 1:
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE_SECONDS)
    return True


def to_end(names: Iterable[str], missing: float, is_idle: Callable[[str], bool]) -> list[list[str]]:
    """Choose the engines to end: the names of their actors, one list an engine or a group.

    Args:
        names: of all resident actors; ranks of one group differ in their last number.
        missing: GPUs that are not free yet; every actor holds one.
        is_idle: whether an actor renders nothing.
    """
    engines: dict[str, list[str]] = {}
    for name in names:
        engines.setdefault(re.sub(r"-\d+$", "", name) if name.startswith("group-") else name, []).append(name)
    chosen: list[list[str]] = []
    for ranks in engines.values():
        if missing <= 0:
            break
        if all(is_idle(name) for name in ranks):
            chosen.append(ranks)
            missing -= len(ranks)
    return chosen


def is_idle(name: str) -> bool:
    """Tell if a resident actor renders and loads nothing; one that does not answer counts as busy."""
    try:
        return bool(ray.get(ray.get_actor(name, NAMESPACE).is_idle.remote(), timeout=ANSWER_SECONDS))
    except (ValueError, RayError):
        return False


def end_actor(name: str) -> None:
    """End a resident actor."""
    try:
        ray.kill(ray.get_actor(name, NAMESPACE))
    except ValueError:  # it has gone by itself
        log.debug("%s is gone", name)


def limit_memory(device: str, leave_gb: float) -> None:
    """Leave memory of the GPU to other programs; without a GPU, or nothing to leave, do nothing.

    Args:
        device: its name, as in `EngineSpec`.
        leave_gb: GB for the others; `RESERVE_GB` are left to the driver besides.
    """
    import torch

    if leave_gb <= 0 or device == "cpu" or not torch.cuda.is_available():
        return
    total = torch.cuda.get_device_properties("cuda").total_memory / GB
    torch.cuda.set_per_process_memory_fraction(max(0.0, 1 - (leave_gb + RESERVE_GB) / total))
