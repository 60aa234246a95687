"""Prefect shell of `liveavatar.planning.plan`: refuse what does not fit before anything loads."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from liveavatar.config import ModelConfig
from liveavatar.hardware import Machine
from tasks.stage import cached, stage
from tasks.store.keys import stage_key
from tasks.store.store import Entry, Values

CODE = ("liveavatar.planning.plan",)
PACKAGES = ("torch",)
CPU_RANKS = 2  # processes of a group on a CPU when nothing else is said


@stage("plan")
def plan(model: ModelConfig, job: dict[str, Any], machine: Machine) -> Entry:
    """Memory and time of a job on a machine; the plan is the entry's values.

    Args:
        model: config of the model.
        job: from `job_of`.
        machine: where it would run.

    Raises:
        CapacityError: it does not fit; with the nearest setting that does.
    """

    def make(_: Path) -> Values:
        from liveavatar.planning import plan

        decided = plan.plan(model, plan.PlanRequest(**job), machine)
        decided.require()
        return decided.to_dict()

    inputs = {
        "model": asdict(model),
        "job": job,
        "gpus": [asdict(gpu) for gpu in machine.gpus],
        "cores": machine.cores,
    }
    key = stage_key("plan", inputs, CODE, PACKAGES)
    entry = cached(key, make)
    needs = entry.values
    if entry.hit and (needs["host_gb"]["total"] > machine.host_gb or needs["disk_gb"]["total"] > machine.disk_gb):
        return cached(key, make, force=True)  # refuses, with the reason
    return entry


def kv_dtype_of(planned: Values) -> str:
    """What a plan keeps keys and values in; "auto" where there is no choice."""
    return str(planned["settings"].get("kv_cache_dtype", "auto"))


def job_of(options: dict[str, Any], width: int, height: int, num_frames: int) -> dict[str, Any]:
    """Fields of the planner's `PlanRequest` for a render's parameters."""
    return {
        "width": width,
        "height": height,
        "num_frames": num_frames,
        "sample_steps": options["sample_steps"],
        "infer_frames": options["infer_frames"],
        "fp8": options["fp8"],
        "kv_cache_dtype": options["kv_cache_dtype"],
        "offload": bool(options["offload_model"]),
        "placement": options["placement"],
        "online_decode": options["enable_online_decode"],
        "processes": min(options["num_gpus"] or CPU_RANKS, options["sample_steps"] + 1),
    }
