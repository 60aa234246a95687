"""Limits of the verdict, each with its source.

A *limit* has two ranges: inside the inner one a check passes, outside the outer one it fails, between them it warns.
"Calibrated" refers to the curves described in `sync`; "ground truth" to videos rendered by the corpus renderer.
"""

from dataclasses import dataclass

from liveavatar.quality.evaluate import QualityResult
from liveavatar.timing import FPS

Range = tuple[float | None, float | None]  # lowest and highest value, None = open


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """Check on one metric of a video."""

    name: str  # a metric
    good: Range
    tolerable: Range  # outside: failed
    source: str
    speech_only: bool = False  # meaningless for a video without speech


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
        name="sync_error_frames", good=(None, 2.2), tolerable=(None, 3.5), speech_only=True,
        source="calibrated on 10 s: right sound 0.7 in the median, below 2.1 in 95 %; wrong 4.8, above 3.3 in 95 %",
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
        name="silent_lip", good=(None, 0.04), tolerable=(None, 0.10),
        source="THEval: real people 0.026",
    ),
    Limit(
        name="silent_openness", good=(None, 0.40), tolerable=(None, 0.70), speech_only=True,
        source="a shut mouth reads 0.01 to 0.06 of eye distance, speech reaches 0.2 to 0.3",
    ),
    Limit(
        name="identity_min", good=(0.66, None), tolerable=(0.50, None),
        source="ground truth 0.84 to 0.95; other rendered heads 0.50 (median) to 0.65; SFace on photos 0.363",
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
        name="flicker", good=(0.955, None), tolerable=(0.92, None),
        source="ground truth 0.991 to 0.998; VBench reports 0.95 to 0.99 for generated video",
    ),
    Limit(
        name="jerk_index", good=(None, 2.5), tolerable=(None, 6.0),
        source="ground truth 0.7 to 1.4, a still picture 0.1, a jitter of 1 % of the eye distance 4",
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


def limits_for(result: QualityResult) -> tuple[Limit, ...]:
    """Select the limits that apply to a video: without speech, lip limits do not.

    The drift of identity is per minute; a short video is allowed as much loss in all as a minute.
    """
    minutes = min(1.0, max(len(result.frames) / FPS / 60, 1e-3))
    drift = Limit(
        name="identity_drift", good=(-0.10 / minutes, None), tolerable=(-0.25 / minutes, None),
        source="a loss of 0.1 in cosine a minute, or over a video shorter than that, can be seen",
    )  # fmt: skip
    return tuple(limit for limit in (*LIMITS, drift) if result.has_speech or not limit.speech_only)
