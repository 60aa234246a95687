"""Report of a sharded distillation: memory, seconds an update, and the same on paper for other GPUs."""

import hashlib
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from liveavatar.bench.dated import write_dated
from liveavatar.config import LIVE_AVATAR_14B
from liveavatar.files import rounded
from liveavatar.hardware import GB, parse_gpus
from liveavatar.training import runtime
from liveavatar.training.matching import FAKE_PER_STUDENT
from liveavatar.training.optim import local
from liveavatar.training.sharded.memory import ShardedRun, fits, host_memory, memory, update_flop

PAPER = "8x80GB"
WARM_UP = FAKE_PER_STUDENT  # updates whose seconds do not count
NAME = "distill_sharded"


@dataclass(slots=True)
class Measured:
    """Measurements of a run on one rank."""

    seconds: dict[str, float] = field(default_factory=dict)  # by what was done once
    updates: list[tuple[bool, float]] = field(default_factory=list)  # student updated, seconds
    losses: list[dict[str, float]] = field(default_factory=list)

    def of_updates(self, student: bool) -> list[float]:
        """Return the seconds of updates of one kind, without the first ones."""
        counted = self.updates[WARM_UP:] or self.updates
        return [seconds for updated, seconds in counted if updated == student]

    @property
    def per_update(self) -> float:
        """Mean seconds of an update, one in three of which is the student's; 0 without any."""
        kinds = [self.of_updates(False), self.of_updates(True)]
        if not all(kinds):
            return mean(kinds[0] or kinds[1] or [0.0])
        return (median(kinds[1]) + (FAKE_PER_STUDENT - 1) * median(kinds[0])) / FAKE_PER_STUDENT


def host_gb() -> float:
    """Return the largest resident memory of this process so far, in GB; mapped files count."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GB


def rank_memory(rank: runtime.TrainRank) -> dict[str, float]:
    """Measure this rank's peak memory, in GB."""
    own = {"rank": float(rank.rank), "host_gb": host_gb()}
    if rank.device.type == "cuda":
        own["allocated_gb"] = torch.cuda.max_memory_allocated(rank.device) / GB
        own["reserved_gb"] = torch.cuda.max_memory_reserved(rank.device) / GB
    return own


def gather(value: Any, rank: runtime.TrainRank) -> list[Any]:
    """Collect a value of every rank; every rank must call it."""
    values: list[Any] = [None] * rank.world
    dist.all_gather_object(values, value)
    return values


def weights_sha256(tensors: Mapping[str, Tensor], rank: runtime.TrainRank) -> str:
    """Compute a digest of sharded tensors on all ranks; equal digests are equal bits. Every rank must call it."""
    own = hashlib.sha256()
    for name in sorted(tensors):
        own.update(name.encode())
        own.update(local(tensors[name]).cpu().numpy().tobytes())
    return hashlib.sha256("".join(gather(own.hexdigest(), rank)).encode()).hexdigest()


def on_paper(run: ShardedRun, measured: Measured, gpus: str = PAPER) -> dict[str, Any]:
    """Compute memory and seconds of the full depth on other GPUs.

    Seconds are the measured ones times the ratio of work: every rank has its own batch, and weights are gathered while
    a layer computes.
    """
    cards = parse_gpus(gpus)
    full = replace(
        run,
        model=replace(run.model, dit=replace(run.dit, num_layers=40, audio_inject_layers=INJECTED)),
        world=len(cards),
    )
    parts = memory(full)
    return {
        "gpus": gpus,
        "layers": full.dit.num_layers,
        "per_rank_gb": parts,
        "total_gb": sum(parts.values()),
        "fits": fits(full, cards[0]),
        "host_gb": host_memory(full),
        "seconds_per_update": measured.per_update * update_flop(full) / update_flop(run),
    }


INJECTED = LIVE_AVATAR_14B.dit.audio_inject_layers


def content(
    run: ShardedRun, measured: Measured, ranks: list[dict[str, float]], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Collect the report's figures."""
    parts = memory(run)
    seconds, tflops = {"mean": measured.per_update}, dict[str, float]()
    for name, student in (("fake score", False), ("student and fake score", True)):
        if of_kind := measured.of_updates(student):
            seconds[name] = median(of_kind)
            tflops[name] = update_flop(run, student) / seconds[name] / 1e12
    return {
        **facts,
        "layers": run.dit.num_layers,
        "world": run.world,
        "window": {"blocks": run.size.num_blocks, "latent": [run.size.h, run.size.w], "batch": run.batch},
        "tokens": list(run.tokens),
        "updates": len(measured.updates),
        "seconds_per_update": seconds,
        "tflops_per_rank": tflops,
        "seconds_once": measured.seconds,
        "predicted_gb": {**parts, "total": sum(parts.values())},
        "ranks": ranks,
        "host_gb": sum(r["host_gb"] for r in ranks),
        "losses": [measured.losses[0], measured.losses[-1]] if measured.losses else [],
        "on_paper": on_paper(run, measured),
    }


def page(figures: Mapping[str, Any]) -> str:
    """Write the report's page."""
    f = rounded(dict(figures), 3)
    predicted, paper = f["predicted_gb"], f["on_paper"]
    lines = [
        f"# Distillation of {f['model']}: {f['layers']} layers on {f['world']} x {f['device']}",
        "",
        f"{f['torch']}. {f['command']}",
        "",
        f"Window: {f['window']['blocks']} blocks of {f['window']['latent'][0]} x {f['window']['latent'][1]} latent "
        f"cells, batch {f['window']['batch']}: {f['tokens'][0]} noisy and {f['tokens'][1]} sink tokens. "
        f"Adapters of rank {f['adapters']['rank']}. {f['updates']} updates.",
        "",
        "## Seconds",
        "",
        "| what | seconds |",
        "|---|---|",
        *(f"| update, {k} | {v} |" for k, v in f["seconds_per_update"].items()),
        *(f"| {k} | {v} |" for k, v in f["seconds_once"].items()),
        "",
        f"TFLOP/s a rank, what is computed twice included: {f['tflops_per_rank']}.",
        "",
        "## Memory, GB of 2^30 bytes",
        "",
        "| rank | allocated at most | reserved at most | predicted | host |",
        "|---|---|---|---|---|",
        *(
            f"| {round(r['rank'])} | {r.get('allocated_gb', '')} | {r.get('reserved_gb', '')} "
            f"| {predicted['total']} | {r['host_gb']} |"
            for r in f["ranks"]
        ),
        "",
        f"Host memory of all ranks: {f['host_gb']} GB.",
        "",
        f"## On paper: {paper['layers']} layers on {paper['gpus']}",
        "",
        "| what | this run, a rank | on paper, a rank |",
        "|---|---|---|",
        *(f"| {k} | {v} | {paper['per_rank_gb'][k]} |" for k, v in predicted.items() if k != "total"),
        f"| all | {predicted['total']} | {paper['total_gb']} |",
        "",
        f"It {'fits' if paper['fits'] else 'does NOT fit'}; host memory {paper['host_gb']} GB; "
        f"{paper['seconds_per_update']} s an update.",
        "",
        f"sha256 of the adapters: {f['weights_sha256']}",
        "",
    ]
    return "\n".join(lines)


def write(folder: Path, figures: Mapping[str, Any]) -> Path:
    """Write page and figures of a report into a folder; return the page's path."""
    return write_dated(folder, NAME, page(figures), rounded(dict(figures), 4))
