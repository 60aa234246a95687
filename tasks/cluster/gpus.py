"""GPUs that are left when an engine was lost: Ray hands out a broken one again and again, unless something holds it.

A *holder* is an actor on one GPU that asks the driver about it. A holder of a GPU that can be used ends at once. One of
another GPU stays, so that no engine is placed there, until a later look finds the GPU mended.
"""

import logging
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import ray
from filelock import FileLock
from ray.actor import ActorHandle
from ray.exceptions import RayError

from liveavatar import paths
from liveavatar.files import disk_errors
from liveavatar.isolation.worker import die_with_parent
from tasks.cluster import gpu_probe
from tasks.cluster.head import NAMESPACE, num_gpus
from tasks.cluster.room import end_actor, is_idle

log = logging.getLogger(__name__)

# CUDA would number the fastest GPU first; plans, `nvidia-smi` and `CUDA_VISIBLE_DEVICES` of users number them by slot.
GPU_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
HOLDER = "gpu-holder-"  # beginning of the names of holders
PROBE_SECONDS = 30.0  # for the driver to answer; a broken GPU may keep it busy for ever
ANSWER_SECONDS = PROBE_SECONDS + 20.0  # between two answers of holders, the start of a process included
SETTLE_SECONDS = 10.0  # for Ray to notice the end of actors
PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class GpusLeft:
    """The GPUs of a cluster that engines may have."""

    count: int  # those of idle engines included, which make room
    usable: tuple[str, ...] = ()  # names of those that no engine has
    broken: tuple[str, ...] = ()  # names of those that do not answer
    busy: int = 0  # engines that render or load

    def __str__(self) -> str:
        """Say how many are left, and which."""
        left = {0: "no GPU is left", 1: "1 GPU is left"}.get(self.count, f"{self.count} GPUs are left")
        named = f" ({', '.join(self.usable)})" if self.usable else ""
        broken = f", {' and '.join(self.broken)} cannot be used" if self.broken else ""
        busy = {0: "", 1: ", 1 is busy with another job"}.get(self.busy, f", {self.busy} are busy with other jobs")
        return f"{left}{named}{broken}{busy}"


def driver_answers() -> bool:
    """Ask the driver whether the GPU of this process can be used."""
    try:
        asked = subprocess.run([sys.executable, "-I", gpu_probe.__file__], timeout=PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0


class GpuLost(Exception):
    """A process can use its GPU no more; the engine host ends it and looks for GPUs that are left."""


def gpu_lost(seconds: float | None = None) -> bool:
    """Tell if Ray gave this process a GPU that it can use no more; after an error of CUDA that may be any error.

    Args:
        seconds: for the GPU to finish what it computes; None: `PROBE_SECONDS`.
    """
    import torch

    if not ray.get_gpu_ids():
        return False
    if not torch.cuda.is_initialized():
        return not driver_answers()
    ended = threading.Event()

    def wait_for_gpu() -> None:
        with suppress(RuntimeError):
            torch.cuda.synchronize()
            ended.set()

    waiting = threading.Thread(target=wait_for_gpu, daemon=True)  # a broken GPU may keep it for ever
    waiting.start()
    waiting.join(PROBE_SECONDS if seconds is None else seconds)
    return not ended.is_set()


class GpuHolder:
    """Holds one GPU and asks about it, in a process of its own."""

    def __init__(self, answers: Callable[[], bool]) -> None:
        die_with_parent()
        self._answers = answers

    def ask(self) -> tuple[str, str, bool]:
        """Return the address of the machine, the number of the GPU there, and whether it can be used."""
        (number,) = ray.get_gpu_ids()
        return str(ray.util.get_node_ip_address()), str(number), self._answers()

    def is_idle(self) -> bool:
        """Tell that this actor is not one to end for another engine."""
        return False


def any_held() -> bool:
    """Tell if a GPU is held since an earlier look."""
    return any(name.startswith(HOLDER) for name in ray.util.list_named_actors())


def look(own: str, answers: Callable[[], bool] = driver_answers) -> GpusLeft:
    """Find the GPUs that are left, and hold those that cannot be used.

    Args:
        own: name of an engine's actor, or what the names of a group's begin with ("group-...-"), which is ended first;
            empty: none.
        answers: asks about the GPU of a process.
    """
    place = paths.gpu_look()
    one_look = FileLock(place)  # a look ends the holders of another, in whatever process that is
    with disk_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        one_look.acquire()
    try:
        return _look(own, answers)
    finally:
        one_look.release()


def _look(own: str, answers: Callable[[], bool]) -> GpusLeft:
    _end(lambda name: name.startswith(HOLDER) or name == own or (own.endswith("-") and name.startswith(own)))
    engines = [is_idle(name) for name in ray.util.list_named_actors()]  # each has one GPU
    asked: dict[Any, ActorHandle] = {
        holder.ask.remote(): holder for holder in map(_hold, [answers] * (int(num_gpus()) - len(engines)))
    }
    found = _answers(list(asked))
    for reference, holder in asked.items():
        if reference not in found or found[reference][2]:
            ray.kill(holder)
    here = str(ray.util.get_node_ip_address())
    names = [(f"GPU {gpu}" + (f" at {node}" if node != here else ""), good) for node, gpu, good in found.values()]
    usable, broken = (tuple(sorted(name for name, good in names if good == kind)) for kind in (True, False))
    _settle(lambda: ray.available_resources().get("GPU", 0) >= len(usable))
    idle = sum(engines)
    return GpusLeft(len(usable) + idle, usable, broken, len(engines) - idle)


def _hold(answers: Callable[[], bool]) -> ActorHandle:
    remote = ray.remote(GpuHolder).options(
        name=f"{HOLDER}{secrets.token_hex(4)}", namespace=NAMESPACE, lifetime="detached", num_cpus=0, num_gpus=1,
        max_restarts=0, runtime_env={"env_vars": GPU_ORDER},
    )  # fmt: skip
    return cast(ActorHandle, remote.remote(answers))


def _answers(references: list[Any]) -> dict[Any, tuple[str, str, bool]]:
    """Wait for the answers of holders; those whose machine was lost, or that Ray has no GPU for, give none."""
    answers = {}
    while references:
        done, references = ray.wait(references, timeout=ANSWER_SECONDS)
        if not done:
            break
        try:
            answers[done[0]] = ray.get(done[0])
        except RayError as e:
            log.debug("no answer about a GPU: %s", e)
    return answers


def _end(chosen: Callable[[str], bool]) -> None:
    """End named actors, and wait until Ray knows it."""
    for name in filter(chosen, ray.util.list_named_actors()):
        end_actor(name)
    _settle(lambda: not any(map(chosen, ray.util.list_named_actors())))


def _settle(settled: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while not settled() and time.monotonic() < deadline:
        time.sleep(PAUSE_SECONDS)
