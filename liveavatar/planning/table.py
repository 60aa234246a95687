"""Table of plans: sizes by denoise steps on one machine, and the steps to take at each size, with the reason."""

from dataclasses import dataclass
from typing import Any

from liveavatar.config import LISTED_SIZES, ModelConfig
from liveavatar.hardware import Machine
from liveavatar.planning.choice import REAL_TIME, Choice, choose
from liveavatar.planning.plan import video_size
from liveavatar.planning.request import PlanRequest
from liveavatar.timing import FPS

SIZES = ((384, 256), (688, 368), (704, 384), (720, 400))  # of the article that this project grew from
STEPS = (3, 4, 5, 6)
DISTILLED = 4  # denoise steps that the models were distilled for


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRow:
    """A size and a number of steps on a machine."""

    asked: str  # `--size`
    size: str  # of the video
    steps: int
    fits: bool
    in_8_bits: bool  # weights in 8 bits, asked for or because it fits in no other way
    offload: bool  # weights in host memory, asked for or because it fits in no other way
    placement: str
    gib: float  # of the fullest GPU, or of the host without one
    fps: float
    reason: str  # that it does not fit; empty when it does


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """Steps to take at a size; None where nothing fits."""

    asked: str
    steps: int | None
    why: str


def table_sizes(config: ModelConfig) -> tuple[tuple[int, int], ...]:
    """Return the sizes of a model's table: the article's, or those that it was trained for."""
    return SIZES if config.size_rule != LISTED_SIZES else config.areas[:1]


def plan_table(config: ModelConfig, request: PlanRequest, machine: Machine) -> tuple[list[TableRow], list[Advice]]:
    """Plan a job at every size and number of steps of the table.

    Args:
        config: of the model.
        request: the job; its size and steps are replaced.
        machine: to run it on.
    """
    rows, advice = [], []
    for area in table_sizes(config):
        width, height = video_size(config, area, None)
        asked = f"{area[0]}*{area[1]}"
        of_size = []
        for steps in (steps for steps in STEPS if steps in config.sigmas):
            cell = request.changed(width=width, height=height, sample_steps=steps)
            of_size.append(_row(asked, _in_any_way(config, cell, machine)))
        rows += of_size
        advice.append(advise(asked, of_size))
    return rows, advice


def _in_any_way(config: ModelConfig, request: PlanRequest, machine: Machine) -> Choice:
    """Settle a job as asked; where that does not fit, with weights in 8 bits, and last with weights in host memory.

    The last is the one that comes nearest to fitting.
    """
    choice = choose(config, request, machine)
    if not choice.fits and machine.has_fp8 and not request.settings.fp8:
        request = request.changed(fp8=True)
        choice = choose(config, request, machine)
    if choice.fits or request.offload or not machine.gpus or request.placement == "tpp":
        return choice
    return choose(config, request.changed(offload=True), machine)


def _row(asked: str, choice: Choice) -> TableRow:
    request = choice.model.request
    host = choice.model.host(choice.placement, len(choice.loads))["total"]
    return TableRow(
        asked=asked,
        size=request.size,
        steps=request.settings.sample_steps,
        fits=choice.fits,
        in_8_bits=request.settings.fp8,
        offload=request.offload,
        placement=choice.placement,
        gib=max((load.total for load in choice.loads), default=host),
        fps=choice.fps,
        reason="" if choice.fits else choice.refusals[0],
    )


def advise(asked: str, rows: list[TableRow]) -> Advice:
    """Choose the steps of a size: those that the model was distilled for, fewer where only they are live or fit."""
    fitting = {row.steps: row for row in rows if row.fits}
    if not fitting:
        with_ = [name for name, on in (("--fp8", rows[0].in_8_bits), ("offload", rows[0].offload)) if on]
        way = f", with {' and '.join(with_)}" if with_ else ""
        return Advice(asked=asked, steps=None, why=f"nothing fits{way}: {rows[0].reason}")
    live = {steps for steps, row in fitting.items() if row.fps >= REAL_TIME * FPS}
    fewer = max((steps for steps in fitting if steps < DISTILLED), default=None)
    if DISTILLED not in fitting:
        best = fewer if fewer is not None else min(fitting)
        return Advice(asked=asked, steps=best, why=f"{DISTILLED} steps do not fit")
    fps = fitting[DISTILLED].fps
    distilled = f"the model was distilled for {DISTILLED}"
    if DISTILLED in live:
        return Advice(asked=asked, steps=DISTILLED, why=f"{distilled}, and {fps:.1f} frames/s are live")
    if fewer in live:
        why = f"live, which {DISTILLED} steps with {fps:.1f} frames/s are not; {DISTILLED} for a finished video"
        return Advice(asked=asked, steps=fewer, why=why)
    why = f"{distilled}; no number of steps is live here"
    if fewer is not None and fitting[DISTILLED].offload and not fitting[fewer].offload:
        why += f", {fewer} without offload come nearest with {fitting[fewer].fps:.1f} frames/s against {fps:.1f}"
    return Advice(asked=asked, steps=DISTILLED, why=why)


def as_data(rows: list[TableRow], advice: list[Advice]) -> dict[str, Any]:
    """Return a table as plain values."""
    return {
        "rows": [
            {
                "size": row.asked,
                "video": row.size,
                "sample_steps": row.steps,
                "fits": row.fits,
                "fp8": row.in_8_bits,
                "offload_model": row.offload,
                "placement": row.placement,
                "gib": round(row.gib, 2),
                "fps": round(row.fps, 2),
                "reason": row.reason,
            }
            for row in rows
        ],
        "recommended": [{"size": one.asked, "sample_steps": one.steps, "why": one.why} for one in advice],
    }
