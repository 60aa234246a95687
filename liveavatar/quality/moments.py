"""Local measures of a video: those of `windows`, `sync_windows`, `colour`, `skin` and `picture`, by metric name.

Owns how their curves are condensed to one number each: the worst second, not the whole.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from liveavatar.quality import colour, sync, sync_windows, windows
from liveavatar.quality.absence import Absence, MeasureUnavailable
from liveavatar.quality.observe import SAMPLE_EVERY, Observation, Reference
from liveavatar.quality.skin import COMPARABLE
from liveavatar.quality.windows import Local
from liveavatar.timing import FPS

LOCAL_METRICS = (
    *("pause_frames", "repeat_share", "still_s", "mouth_still_s", "silent_speech", "sync_slip", "sync_worst"),
    *("clipped_share", "luma_pulse", "luma_drift", "change_pulse", "green_shift", "warm_shift", "saturation_ratio"),
    *("colour_drift", "spot_step", "spots", "half_likeness", "stretch", "tilt_deg", "bars", "lattice"),
    *("identity_loss", "spots_rise", "flicker_worst", "jerk_worst", "sharpness_step", "muted_s", "skin_tints"),
)
LIKENESS_TURN = 0.3  # of half the face's width, see `skin.turn`: likeness hardly changes up to there
ALIKE_SHARE = 30.0  # per cent of the frames, those least turned from the portrait's view, that are always compared


def local_curves(seen: Observation) -> dict[str, Callable[[], float | Local]]:
    """List the measures that need the pictures alone."""
    change, luminance = np.array(seen.change), np.array(seen.luminance)
    return {
        "pause_frames": lambda: windows.pause(change),
        "repeat_share": lambda: windows.repeat_share(change),
        "luma_pulse": lambda: windows.luma_pulse(luminance),
        "luma_drift": lambda: windows.luma_drift(luminance),
        "change_pulse": lambda: windows.change_pulse(change),
        "flicker_worst": lambda: windows.worst_flicker(change),
        "lattice": lambda: _worst_second(np.array(seen.lattice), 50),
    }


def face_curves(seen: Observation) -> dict[str, Callable[[], float | Local]]:
    """List the measures that need a face that is followed."""
    skin = _skin(seen)
    return {
        "still_s": lambda: windows.still_face(np.stack(seen.anchors), np.array(seen.openness)),
        "jerk_worst": lambda: windows.worst_jerk(np.stack(seen.anchors)),
        "colour_drift": lambda: colour.colour_drift(skin),
        "spot_step": lambda: _worst_second(np.array(seen.spot_step), 90),
    }


def lip_curves(openness_T: np.ndarray, speech: sync.Speech) -> dict[str, Callable[[], float | Local]]:
    """List the measures of lips against sound."""
    slip = cache(lambda: sync_windows.slip(openness_T, speech))
    return {
        "mouth_still_s": lambda: sync_windows.mouth_still(openness_T, speech.envelope_T),
        "silent_speech": lambda: sync_windows.silent_speech(openness_T, speech.envelope_T),
        "sync_slip": lambda: slip()[0],
        "sync_worst": lambda: slip()[1],
    }


def portrait_curves(seen: Observation, reference: Reference | None) -> dict[str, Callable[[], float | Local]]:
    """List the measures against a portrait; they may be taken when its face was read."""
    skin = _skin(seen)
    wanted = np.zeros(3) if reference is None or reference.upright is None else reference.upright.colour
    roll = 0.0 if reference is None or reference.face is None else reference.face.roll
    turned = np.array(seen.turn)
    alike = np.abs(turned) <= COMPARABLE
    spots = np.where(alike, np.array(seen.spots), np.nan)
    halves = np.where(np.abs(turned) <= LIKENESS_TURN, np.array(seen.half_likeness), np.nan)
    return {
        "sharpness_step": lambda: windows.sharpness_step(np.array(seen.sharpness_ratio)),
        "green_shift": lambda: colour.green_shift(skin, wanted),
        "warm_shift": lambda: colour.warm_shift(skin, wanted),
        "saturation_ratio": lambda: colour.saturation(skin, wanted),
        "skin_tints": lambda: _worst_second(np.where(alike, np.array(seen.tints), np.nan), 50),
        "spots": lambda: _worst_second(spots, 50),
        "spots_rise": lambda: _rise(spots),
        "half_likeness": lambda: _worst_second(-halves, 0, sign=-1),
        "stretch": lambda: _median(np.where(alike, np.array(seen.stretch), np.nan)),
        "tilt_deg": lambda: float(np.degrees(_median(np.array(seen.roll)) - roll)),
    }


def bars(seen: Observation, reference: Reference | None) -> Local:
    """Compute `bars`: the widest bar at a border, through any second, that the portrait does not have.

    Unit: share of the side.
    """
    if not seen.bars:
        raise MeasureUnavailable("no picture was read", Absence.NOT_APPLICABLE)
    samples = min(len(seen.bars), FPS // SAMPLE_EVERY)
    throughout = np.lib.stride_tricks.sliding_window_view(np.stack(seen.bars), samples, axis=0).min(-1)
    widest = (throughout - (0 if reference is None else reference.bars)).max(1)
    return Local(float(widest.max()), (int(widest.argmax()) + samples / 2) * SAMPLE_EVERY / FPS)


def identity_loss(similarity_N: np.ndarray) -> float:
    """Compute `identity_loss`: likeness (cosine) in the first third of the samples less that in the last.

    Raises:
        MeasureUnavailable: for fewer than nine samples.
    """
    third = len(similarity_N) // 3
    if third < 3:
        raise MeasureUnavailable("too few samples of the face to tell a loss", Absence.NOT_APPLICABLE)
    return float(similarity_N[:third].mean() - similarity_N[-third:].mean())


def comparable(seen: Observation) -> np.ndarray:
    """Mark the embeddings whose head is turned about as in the portrait; bool [N].

    At least the 30 % that are turned least count, so that a video which looks away throughout is judged too.
    """
    turned = np.abs(np.array(seen.turn)[seen.embedding_frames])
    known = turned[np.isfinite(turned)]
    if not len(known):
        return np.ones(len(turned), bool)
    return turned <= max(LIKENESS_TURN, float(np.percentile(known, ALIKE_SHARE)))


def _skin(seen: Observation) -> np.ndarray:
    return np.stack([seen.red, seen.green, seen.blue], -1)


def _worst_second(curve_T: np.ndarray, percentile: float, sign: int = 1) -> Local:
    """Take a percentile in every second, and the largest of all; `sign` -1 for a curve that was negated."""

    def value(part: slice) -> float | None:
        known = curve_T[part][np.isfinite(curve_T[part])]
        return float(np.percentile(known, percentile)) if len(known) >= 3 else None

    worst = windows.worst_second(len(curve_T), value)
    if worst is None:
        raise MeasureUnavailable("no second shows the face as the portrait does", Absence.NOT_APPLICABLE)
    return Local(sign * worst.value, worst.seconds)


def _rise(curve_T: np.ndarray) -> Local:
    """Take the worst second's median less the best one's."""
    worst = _worst_second(curve_T, 50)
    return Local(worst.value - _worst_second(-curve_T, 50, sign=-1).value, worst.seconds)


def _median(curve_T: np.ndarray) -> float:
    values = curve_T[np.isfinite(curve_T)]
    if not len(values):
        raise MeasureUnavailable("no frame shows the face as the portrait does", Absence.NOT_APPLICABLE)
    return float(np.median(values))
