"""Limits of the verdict, each with its source.

A *limit* has two ranges: inside the inner one a check passes, outside the outer one it fails, between them it warns.
"Calibrated" refers to the curves described in `sync`; "ground truth" to videos rendered by the corpus renderer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from liveavatar.errors import InputError
from liveavatar.files import parse_json, read_bytes
from liveavatar.quality.evaluate import QualityResult
from liveavatar.quality.limit import Limit, Range
from liveavatar.quality.limits_local import LOCAL_LIMITS
from liveavatar.timing import FPS

DEFAULT_FILE = "data/limits.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class RowLimit:
    """Check on a column of the frames or blocks: enough of its rows lie in a range."""

    name: str
    table: str  # "frames" or "blocks"
    column: str
    between: Range
    good: float  # share of rows that must comply to pass
    tolerable: float  # share below which the check fails
    source: str


LIMITS: tuple[Limit, ...] = (
    Limit(
        name="av_offset_frames", good=(-3, 1), tolerable=(-4, 2), speech_only=True,
        source="ITU-R BT.1359: detectable from 45 ms early or 125 ms late sound, unacceptable from 90 or 185 ms",
    ),
    Limit(
        name="av_correlation", good=(0.38, None), tolerable=(0.30, None), speech_only=True,
        source="calibrated on 10 s: right sound over 0.47 in 95 %; wrong sound 0.20 in the median, under 0.34 in 95 %",
    ),
    Limit(
        name="sync_error_frames", good=(None, 1.6), tolerable=(None, 2.3), speech_only=True,
        source="good videos up to 1.4; another video's sound 4.7 in the median, a tempo off by 5 % 3.5",
    ),
    Limit(
        name="lip_sync", good=(None, 0.33), tolerable=(None, 0.42), speech_only=True,
        source="THEval: real people 0.25; calibrated: right sound at most 0.28 in 95 %, a shut mouth 0.47",
    ),
    Limit(
        name="openness_range", good=(0.05, None), tolerable=(0.025, None), speech_only=True,
        source="ground truth 0.16 to 0.20; a still picture 0.001",
    ),
    Limit(
        name="silent_lip", good=(None, 0.045), tolerable=(None, 0.10),
        source="THEval: real people 0.026; good videos under harmless treatments up to 0.042",
    ),
    Limit(
        name="silent_openness", good=(None, 0.55), tolerable=(None, 0.70), speech_only=True,
        source="a shut mouth reads 0.01 to 0.06 of eye distance, speech reaches 0.2 to 0.3",
    ),
    Limit(
        name="identity_min", good=(0.70, None), tolerable=(0.60, None),
        source="ground truth 0.84 to 0.95; other heads 0.43 in the median, 0.54 at most of 56; SFace on photos 0.363",
    ),
    Limit(
        name="texture_psnr", good=(19.0, None), tolerable=(14.0, None),
        source="ground truth 21 to 37 dB; blotches of 30 grey levels under 18; tells artefacts, not people",
    ),
    Limit(
        name="sharpness_ratio", good=(0.70, 1.5), tolerable=(0.40, 2.5),
        source="ground truth 0.94 to 1.18; blurred by a pixel 0.5 to 0.6, by two 0.18 to 0.27; noise of 25 1.3 to 1.7",
    ),
    Limit(
        name="flicker", good=(0.955, None), tolerable=(0.935, None),
        source="ground truth 0.991 to 0.998; VBench reports 0.95 to 0.99 for generated video",
    ),
    Limit(
        name="jerk_index", good=(None, 2.5), tolerable=(None, 6.0),
        source="good videos 0.5 to 2.1, a still picture 0.1, a jitter of 1 % of the eye distance 4",
    ),
    Limit(
        name="motion_energy", good=(0.06, 3.0), tolerable=(0.02, 6.0),
        source="ground truth 0.19 to 0.33; a still picture 0.006 (the tracker's noise)",
    ),
    Limit(
        name="repeated_frames", good=(None, 6), tolerable=(None, FPS),
        source="a picture that stands still for a second is a fault; six frames may be a pause",
    ),
    Limit(
        name="edge_jump", good=(None, 2.0), tolerable=(None, 4.0),
        source="ground truth 0.97 to 1.1; a jump of twice the motion is seen",
    ),
    Limit(
        name="dropped_frames", good=(None, 0), tolerable=(None, 2),
        source="none is dropped by construction",
    ),
    Limit(
        name="duration_error_s", good=(-0.045, 0.045), tolerable=(-0.5, 0.5),
        source="picture and sound end within one frame (40 ms) of one another",
    ),
    Limit(
        name="track_length_error_s", good=(-0.045, 0.045), tolerable=(-0.5, 0.5),
        source="picture and sound end within one frame (40 ms) of one another",
    ),
    Limit(
        name="face_share", good=(0.98, None), tolerable=(0.90, None),
        source="the speaker looks at the camera throughout",
    ),
)  # fmt: skip

DRIFT = Limit(
    name="identity_drift", good=(-0.10, None), tolerable=(-0.25, None),
    source="a loss of 0.1 in cosine a minute, or over a video shorter than that, can be seen",
)  # fmt: skip
METRIC_LIMITS: tuple[Limit, ...] = (*LIMITS, *LOCAL_LIMITS, DRIFT)

ROW_LIMITS: tuple[RowLimit, ...] = (
    RowLimit(
        name="frames.luminance", table="frames", column="luminance", between=(6, 250), good=1.0, tolerable=0.99,
        source="a black or white frame shows nothing",
    ),
    RowLimit(
        name="frames.openness", table="frames", column="openness", between=(0, 1.2), good=0.99, tolerable=0.95,
        source="the widest rendered mouth reads 0.4, a yawn 0.9; more is a broken mesh",
    ),
    RowLimit(
        name="blocks.face_share", table="blocks", column="face_share", between=(0.5, 1), good=1.0, tolerable=0.95,
        source="no block may lose the face",
    ),
    RowLimit(
        name="blocks.identity", table="blocks", column="identity", between=(0.50, 1.001), good=0.95, tolerable=0.80,
        source="as identity_min",
    ),
    RowLimit(
        name="blocks.sharpness_ratio", table="blocks", column="sharpness_ratio", between=(0.3, 3), good=1.0,
        tolerable=0.95, source="no block may be washed out",
    ),
)  # fmt: skip


def limits_for(result: QualityResult, limits: Sequence[Limit] | None = None) -> tuple[Limit, ...]:
    """Select the limits that apply to a video: without speech, lip limits do not.

    The drift of identity is per minute; a short video is allowed as much loss in all as a minute.

    Args:
        result: measures of the video.
        limits: those to select from; None for `METRIC_LIMITS`.
    """
    minutes = min(1.0, max(len(result.frames) / FPS / 60, 1e-3))
    return tuple(
        replace(limit, good=_scaled(limit.good, minutes), tolerable=_scaled(limit.tolerable, minutes))
        if limit.name == "identity_drift" else limit
        for limit in (METRIC_LIMITS if limits is None else limits)
        if result.has_speech or not limit.speech_only
    )  # fmt: skip


def _scaled(allowed: Range, minutes: float) -> Range:
    low, high = allowed
    return None if low is None else low / minutes, None if high is None else high / minutes


def grade(value: float, limit: Limit) -> str:
    """Grade one value as the suites do: "passed", "warned" or "failed"."""
    if _within(value, limit.good):
        return "passed"
    return "warned" if _within(value, limit.tolerable) else "failed"


def _within(value: float, allowed: Range) -> bool:
    low, high = allowed
    return (low is None or value >= low) and (high is None or value <= high)


def read_limits(path: Path) -> tuple[Limit, ...]:
    """Read limits from a file: the product's own, with the ranges that the file gives.

    The file is JSON: metric -> {"good": [low, high], "tolerable": [low, high]}, null for an open side;
    `data/limits.json` holds the product's own.

    Raises:
        InputError: naming what is wrong and the way out.
    """
    try:
        given = parse_json(read_bytes(path))
    except (OSError, ValueError) as e:
        raise InputError(f"--limits {path}: cannot be read as JSON ({e}); copy {DEFAULT_FILE} and edit it") from e
    known = {limit.name: limit for limit in METRIC_LIMITS}
    if not isinstance(given, dict) or (unknown := given.keys() - known.keys()):
        what = f"unknown metrics {', '.join(sorted(unknown))}" if isinstance(given, dict) else "it is no table"
        raise InputError(f"--limits {path}: {what}; copy {DEFAULT_FILE} and edit it")
    for name, ranges in given.items():
        known[name] = _edited(known[name], ranges, f"--limits {path}: {name}")
    return tuple(known.values())


def _edited(limit: Limit, ranges: Any, where: str) -> Limit:
    if not isinstance(ranges, dict) or ranges.keys() != {"good", "tolerable"}:
        raise InputError(f'{where}: give {{"good": [low, high], "tolerable": [low, high]}}')
    for key, pair in ranges.items():
        numbers = pair if isinstance(pair, list) and len(pair) == 2 else [""]
        low, high = (*numbers, None)[:2]
        if not all(n is None or (isinstance(n, int | float) and math.isfinite(n)) for n in numbers):
            raise InputError(f"{where}: {key} is {pair}; give two numbers, null for an open side")
        if low is not None and high is not None and low > high:
            raise InputError(f"{where}: {key} is {pair}; the low end lies above the high end")
    good, tolerable = ranges["good"], ranges["tolerable"]
    inner, outer = (math.nan if edge is None else edge for edge in good), (tolerable[0], tolerable[1])
    if any(bound is not None and math.isnan(edge) for edge, bound in zip(inner, outer, strict=True)) or any(
        edge is not None and not _within(edge, outer) for edge in good
    ):
        raise InputError(f"{where}: good {good} reaches outside tolerable {tolerable}; make tolerable the wider one")
    return replace(limit, good=(good[0], good[1]), tolerable=(tolerable[0], tolerable[1]))


def as_file(limits: Sequence[Limit]) -> dict[str, dict[str, list[float | None]]]:
    """Lay limits out as `read_limits` reads them."""
    return {limit.name: {"good": list(limit.good), "tolerable": list(limit.tolerable)} for limit in limits}
