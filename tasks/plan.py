"""Prefect shell of `liveavatar.planning.plan`: refuse what does not fit before anything loads."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from liveavatar.config import ModelConfig
from liveavatar.engine.settings import RenderSettings
from liveavatar.errors import CapacityError
from liveavatar.hardware import Machine
from liveavatar.planning.request import PlanRequest
from tasks.events import Event, emit
from tasks.stage import cached, stage
from tasks.store.keys import stage_key
from tasks.store.store import Entry, Values

CODE = ("liveavatar.planning.plan",)
LEFT_OUT = ("liveavatar.prompt",)  # settings may write the prompt anew, which costs nothing
PACKAGES = ("torch",)
CPU_RANKS = 2  # processes of a group on a CPU when nothing else is said
WITHOUT_COST = ("prompt", "prompt_words", "seed")  # settings that change neither memory nor time


@stage("plan")
def plan(model: ModelConfig, request: PlanRequest, machine: Machine) -> Entry:
    """Plan memory and time of a job on a machine; the plan is the entry's values.

    Args:
        model: config of the model.
        request: the job.
        machine: to run it on.

    Raises:
        CapacityError: it does not fit; with the nearest options that do.
    """

    def make(_: Path) -> Values:
        from liveavatar.planning import plan

        outcome = plan.plan(model, request, machine)
        outcome.require()
        return outcome.to_dict()

    key = stage_key("plan", plan_inputs(model, request, machine), CODE, PACKAGES, LEFT_OUT)
    entry = cached(key, make)
    needs = entry.values
    free_gb = min(machine.disk_gb, machine.work_gb)
    if entry.hit and (needs["host_gb"]["total"] > machine.host_gb or needs["disk_gb"]["total"] > free_gb):
        return cached(key, make, force=True)  # refuses, with the reason
    facts = f"{needs['placement']}, {needs['fps']:.1f} frames/s, first frame after {needs['ttff_s']:.1f} s"
    emit(Event(kind="fact", stage="plan", text=f"{facts}, {needs['host_gb']['total']:.1f} GB of memory"))
    return entry


def plan_for_fewer(model: ModelConfig, request: PlanRequest, machine: Machine, num_gpus: int) -> Values:
    """Plan the rest of a job whose machine has lost GPUs; the plan's values.

    Args:
        model: config of the model.
        request: the job; its dtype of keys and values is that of its snapshots.
        machine: as it was before. The smallest of its GPUs count as those that are left.
        num_gpus: that are left, at least 1.

    Raises:
        CapacityError: it does not fit.
    """
    from liveavatar.planning import plan

    smallest = sorted(machine.gpus, key=lambda gpu: gpu.usable_gb)[:num_gpus]
    fewer = request.changed(
        placement="single" if num_gpus == 1 else request.placement, processes=min(request.processes, num_gpus)
    )
    outcome = plan.plan(model, fewer, replace(machine, gpus=tuple(smallest)))
    if not outcome.fits:
        raise CapacityError(outcome.reasons[0])
    return outcome.to_dict()


def plan_inputs(model: ModelConfig, request: PlanRequest, machine: Machine) -> dict[str, Any]:
    """Collect the inputs that a plan depends on: all of the request but `WITHOUT_COST`, and no free space."""
    job = asdict(request)
    job["settings"] = {name: value for name, value in job["settings"].items() if name not in WITHOUT_COST}
    gpus = [asdict(gpu) for gpu in machine.gpus]
    return {"model": asdict(model), "job": job, "gpus": gpus, "cores": machine.cores}


def kv_dtype_of(planned: Values) -> str:
    """Return the dtype of keys and values under a plan; "auto" where there is no choice."""
    return str(planned["settings"].get("kv_cache_dtype", "auto"))


def request_of(
    settings: RenderSettings, options: dict[str, Any], width: int, height: int, num_frames: int, *, piped: bool = False
) -> PlanRequest:
    """Make the planner's request for a render.

    Args:
        settings: of the render.
        options: fields of its form, of which those about the use of the machine are read.
        width, height: pixels of the video.
        num_frames: its length.
        piped: whether its sound arrives while it is made.
    """
    return PlanRequest(
        width=width,
        height=height,
        num_frames=num_frames,
        settings=settings,
        offload=bool(options["offload_model"]),
        placement=options["placement"],
        online_decode=options["enable_online_decode"],
        processes=min(options["num_gpus"] or CPU_RANKS, settings.sample_steps + 1),
        posed=options["pose_video"] is not None,
        piped=piped,
    )
