"""Limits and goals of the embedded model: the table behind `bench quality`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Sense = Literal["least", "most", "near", "zero"]


@dataclass(frozen=True, slots=True)
class Goal:
    """Limit and goal of one measure.

    `least`: not below; `most`: not above; `near`: ratio to the true video within 1 +- x; `zero`: magnitude up to x.
    """

    name: str
    sense: Sense
    limit: float
    goal: float
    what: str


@dataclass(frozen=True, slots=True)
class GoalCheck:
    """One measure against its goal."""

    name: str
    value: float | None
    limit: float
    goal: float
    sense: Sense
    ok: bool | None  # None: not measured
    goal_reached: bool | None
    what: str
    reason: str = ""  # why there is no value


GOALS: tuple[Goal, ...] = (
    Goal(
        "openness_corr", "least", 0.93, 0.97, "mouth openness against the true video (after the opening), correlation"
    ),
    Goal("width_corr", "least", 0.85, 0.93, "mouth width against the true video (after the opening), correlation"),
    Goal("av_offset_frames", "zero", 0, 0, "frames the lips lag the sound, all clips together"),
    Goal("sync_error_frames", "most", 1.0, 0.5, "mean absolute lag over windows of 2 s"),
    Goal("silent_lip", "most", 0.04, 0.03, "deviation of openness in silence"),
    Goal("identity_ratio", "least", 0.95, 0.98, "likeness to the portrait in the worst second, over the true video's"),
    Goal("identity_loss_120s", "most", 0.02, 0.005, "likeness lost over two minutes (cosine)"),
    Goal("ae_psnr", "least", 34.0, 37.0, "autoencoder alone, whole picture, dB"),
    Goal("ae_psnr_mouth", "least", 33.0, 36.0, "autoencoder alone, box around the mouth, dB"),
    Goal("ae_energy", "least", 0.75, 0.90, "gradient energy that the autoencoder keeps"),
    Goal("texture_psnr", "least", 28.0, 31.0, "face against the true video, its head pose given, dB"),
    Goal("edge_jump", "most", 1.25, 1.1, "frame step into a new block over the mean frame step"),
    Goal("grid_ratio", "most", 2.0, 1.25, "fine structure at the strongest point of an 8-pixel lattice over its mean"),
    Goal("blink_depth_ratio", "near", 0.15, 0.07, "how far the lids shut, over the true video's"),
    Goal("head_spread_ratio", "near", 0.15, 0.07, "how much the head moves, over the true video's"),
    Goal("flicker_ratio", "near", 0.15, 0.07, "mean frame difference (1 - flicker), over the true video's"),
    Goal("jerk_index_ratio", "near", 0.15, 0.07, "jerk of the head, over the true video's"),
    Goal("motion_energy_ratio", "near", 0.15, 0.07, "speed of the face's landmarks, over the true video's"),
)


SOURCES = {"identity_ratio": "identity_min"}  # goals named otherwise than what they are made of


def holds(sense: Sense, value: float, bound: float) -> bool:
    """Return whether a value keeps a bound."""
    if sense == "least":
        return value >= bound
    if sense == "most":
        return value <= bound
    return abs(value - (1 if sense == "near" else 0)) <= bound


def check(values: Mapping[str, float | None], reasons: Mapping[str, str], gaps: Mapping[str, int]) -> list[GoalCheck]:
    """Compare every goal with the measured values.

    A measure without a number is neither kept nor missed, but one that some made videos lack although their true videos
    have it is missed: a face that cannot be read is no good face.

    Args:
        values: by name.
        reasons: why a value is missing.
        gaps: videos that lack a measure, by the measure's name.
    """
    checks = []
    for g in GOALS:
        lost = gaps.get(SOURCES.get(g.name, g.name.removesuffix("_ratio")), 0)
        if lost:
            reason = f"{lost} made videos lack it: " + reasons.get(
                g.name.removesuffix("_ratio"), "no face was followed"
            )
            checks.append(GoalCheck(g.name, values.get(g.name), g.limit, g.goal, g.sense, False, False, g.what, reason))
            continue
        value = values.get(g.name)
        known = value is not None and math.isfinite(value)
        ok = holds(g.sense, value, g.limit) if known and value is not None else None
        reached = holds(g.sense, value, g.goal) if known and value is not None else None
        reason = "" if known else reasons.get(g.name, "not measured")
        checks.append(
            GoalCheck(g.name, value if known else None, g.limit, g.goal, g.sense, ok, reached, g.what, reason)
        )
    return checks


def bound_text(sense: Sense, bound: float) -> str:
    """Format a bound, such as `≥ 0.93` or `1 ± 0.15`."""
    if sense == "near":
        return f"1 ± {bound:g}"
    return {"least": "≥ ", "most": "≤ ", "zero": "= " if bound == 0 else "within ± "}[sense] + f"{bound:g}"
