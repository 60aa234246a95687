"""Measures of what lasts a moment: pauses, repeats, pulses and drifts, each with the second where it is worst.

A median over the whole video cannot see a fault of a second or one that comes back every tenth frame. These measures
look at every frame against its neighbours, or at windows. Inputs are the curves of `observe`, one entry a frame, NaN
where a value is unknown; times are in seconds from the first frame.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from liveavatar.quality import motion
from liveavatar.quality.absence import Absence, MeasureUnavailable
from liveavatar.timing import FPS

STILL = 0.02  # mean absolute difference, of 255, of a frame that repeats the one before
STILL_SHARE = 0.12  # of the median difference: a coder leaves some noise on a repeated frame
REPEAT_SHARE = 0.25  # of the difference that its neighbours lead one to expect, below which a single frame repeats
REGULAR_SHARE, REPEAT_PERIODS = 0.35, range(3, 13)  # the same of frames at a fixed distance, and that distance
NEIGHBOURS = 3  # frames each way
LOCAL = 2 * FPS  # frames of a local window
REST_WINDOW = FPS // 2  # frames over which a head that lives moves
REST_SHARE = 0.2  # of the usual spread (75th percentile over the video), below which a head is still
REST = 0.0035  # eye distances: spread of the landmarks of a still picture, grain and coding included
MOUTH_REST = 0.008  # eye distances: the same of the mouth's openness
PERIODS = range(4, 65)  # frames between pulses that are searched
MIN_PULSES = 6
PULSES_AT_LEAST = 25.0  # percentile: three quarters of the pulses reach the measure
SETTLED = 1e-6
SECOND_HOP = 5  # frames between seconds that are looked at
ENOUGH_OF_A_SECOND = 0.7  # share of its frames that must be known


@dataclass(frozen=True, slots=True)
class Local:
    """Value of a measure and when it was worst."""

    value: float
    seconds: float


def pause(change_T: np.ndarray) -> Local:
    """Compute `pause_frames`: the longest run of frames that repeat the one before.

    A repeat differs from the frame before by under 12 % of the video's median difference (or 0.02 of 255).
    Unit: frames. Source: own definition.
    """
    known = change_T[np.isfinite(change_T)]
    if not len(known):
        raise MeasureUnavailable("the video has fewer than two frames", Absence.NOT_APPLICABLE)
    start, length = longest_run(change_T < max(STILL, STILL_SHARE * float(np.median(known))))
    return Local(float(length), start / FPS)


def repeat_share(change_T: np.ndarray) -> Local:
    """Compute `repeat_share`: the share of single repeated frames in the worst two seconds.

    A frame repeats when its difference to the one before is under a quarter of what is expected: the median of the
    three frames before, or after, whichever is less. A calm moment between two movements does not repeat, though a
    coder leaves little of it. Where three quarters of the frames at one distance (3 to 12, at least six times) come
    under 0.35 of what is expected, all of them repeat. Unit: share, 0.2 = every fifth. Source: own definition.

    Raises:
        MeasureUnavailable: for videos of a few frames.
    """
    total = len(change_T)
    if total < 4 * NEIGHBOURS:
        raise MeasureUnavailable(f"the video has fewer than {4 * NEIGHBOURS} frames", Absence.NOT_APPLICABLE)
    padded = np.pad(np.nan_to_num(change_T), NEIGHBOURS)
    before = np.median([padded[i : i + total] for i in range(NEIGHBOURS)], 0)
    after = np.median([padded[NEIGHBOURS + 1 + i : NEIGHBOURS + 1 + i + total] for i in range(NEIGHBOURS)], 0)
    expected = np.minimum(before, after)
    repeats = (change_T < REPEAT_SHARE * expected).astype(float)
    width = min(LOCAL, total)
    shares = np.convolve(repeats, np.ones(width) / width, "valid")
    worst = Local(float(shares.max()), (int(shares.argmax()) + width / 2) / FPS)
    return max(worst, _regular_repeats(np.nan_to_num(change_T), expected), key=lambda one: one.value)


def _regular_repeats(change_T: np.ndarray, expected_T: np.ndarray) -> Local:
    """Find frames that repeat at a fixed distance: their share of all, 0 when there are none."""
    ratio = np.where(expected_T > STILL, change_T / np.maximum(expected_T, STILL), 1.0)
    for period in REPEAT_PERIODS:
        for phase in range(1, period + 1):
            these = ratio[phase::period]
            if len(these) >= MIN_PULSES and np.percentile(these, 100 - PULSES_AT_LEAST) < REGULAR_SHARE:
                return Local(1 / period, phase / FPS)
    return Local(0.0, 0.0)


def worst_flicker(change_T: np.ndarray) -> Local:
    """Compute `flicker_worst`: `flicker` of the worst second, 1 less the median change between its frames, of 255.

    Source: VBench's temporal flickering, in windows.

    Raises:
        MeasureUnavailable: for videos of a few frames.
    """

    def change(part: slice) -> float | None:
        known = change_T[part][np.isfinite(change_T[part])]
        return float(np.median(known)) if len(known) >= FPS // 2 else None

    worst = worst_second(len(change_T), change)
    if worst is None:
        raise MeasureUnavailable("the video is shorter than half a second", Absence.NOT_APPLICABLE)
    return Local(1 - worst.value / 255, worst.seconds)


def worst_jerk(anchors_TG2: np.ndarray) -> Local:
    """Compute `jerk_worst`: `motion.jerk_index` of the worst second, per cent of the eye distance per frame cubed.

    Source: own definition.

    Raises:
        MeasureUnavailable: when no face was followed over most of a second.
    """

    def jerk(part: slice) -> float | None:
        followed = np.isfinite(anchors_TG2[part]).all((1, 2)).mean() >= ENOUGH_OF_A_SECOND
        return motion.jerk_index(anchors_TG2[part]) if followed else None

    worst = worst_second(len(anchors_TG2), jerk)
    if worst is None:
        raise MeasureUnavailable("no face was followed over most of a second", Absence.FAULT)
    return worst


def sharpness_step(sharpness_T: np.ndarray) -> Local:
    """Compute `sharpness_step`: how far the sharpness of any second lies from the video's, in octaves.

    |log2| of the median of a second over that of the video. Source: own definition.

    Raises:
        MeasureUnavailable: when fewer than two seconds show a face.
    """
    known = np.isfinite(sharpness_T) & (sharpness_T > 0)
    if known.sum() < 2 * FPS:
        raise MeasureUnavailable("fewer than two seconds of the video show a face", Absence.NOT_APPLICABLE)
    usual = float(np.median(sharpness_T[known]))

    def step(part: slice) -> float | None:
        if known[part].mean() < ENOUGH_OF_A_SECOND:
            return None
        return abs(float(np.log2(np.median(sharpness_T[part][known[part]]) / usual)))

    return worst_second(len(sharpness_T), step) or Local(0.0, 0.0)


def worst_second(total: int, measure: Callable[[slice], float | None]) -> Local | None:
    """Find the second of a video of `total` frames with the largest value.

    Args:
        total: frames of the video.
        measure: computes the value of a second from its frames' slice; None where it has none.

    Returns:
        None when no second has a value.
    """
    worst: Local | None = None
    for part in seconds_of(total):
        value = measure(part)
        if value is not None and (worst is None or value > worst.value):
            worst = Local(value, (part.start + part.stop) / 2 / FPS)
    return worst


def seconds_of(total: int) -> Iterator[slice]:
    """List the seconds of a video of `total` frames, one beginning every fifth; one shorter than a second is whole."""
    width = min(FPS, total)
    for start in range(0, total - width + 1, SECOND_HOP):
        yield slice(start, start + width)


def still_face(anchors_TG2: np.ndarray, openness_T: np.ndarray) -> Local:
    """Compute `still_s`: the longest time in which neither head nor mouth moves at all.

    The spread (standard deviation over half a second, averaged over the groups of landmarks) stays under 0.0035 eye
    distances and a fifth of the video's usual spread, and that of the mouth's openness under 0.008: the face stands as
    still as a photograph, grain included. Unit: seconds. Source: own definition.

    Raises:
        MeasureUnavailable: when no face was followed over half a second.
    """
    spread = head_spread(anchors_TG2)
    known = spread[np.isfinite(spread)]
    if not len(known):
        raise MeasureUnavailable("no face was followed over half a second", Absence.NOT_APPLICABLE)
    usual = float(np.percentile(known, 75))
    still = spread < max(SETTLED, min(REST, max(REST_SHARE * usual, REST / 2)))
    mouth = np.lib.stride_tricks.sliding_window_view(openness_T, REST_WINDOW).std(-1)
    start, length = longest_run(still & (mouth < MOUTH_REST))
    frames = length + REST_WINDOW - 1 if length else 0
    return Local(frames / FPS, start / FPS)


def head_spread(anchors_TG2: np.ndarray) -> np.ndarray:
    """Compute the spread of the head's landmarks over every half second, eye distances [T - 11]."""
    if len(anchors_TG2) < REST_WINDOW:
        return np.zeros(0)
    windows = np.lib.stride_tricks.sliding_window_view(anchors_TG2, REST_WINDOW, axis=0)  # [N, G, 2, W]
    return windows.std(-1).mean((1, 2))


def luma_pulse(luminance_T: np.ndarray) -> Local:
    """Compute `luma_pulse`: the largest step of one frame's mean luma away from its four neighbours' median.

    Unit: grey levels of 255. Motion changes a picture's mean slowly, a pulse at once. Source: own definition.

    Raises:
        MeasureUnavailable: for videos under five frames.
    """
    if len(luminance_T) < 5:
        raise MeasureUnavailable("the video has fewer than five frames", Absence.NOT_APPLICABLE)
    around = np.stack([luminance_T[i : len(luminance_T) - 4 + i] for i in (0, 1, 3, 4)])
    steps = np.abs(luminance_T[2:-2] - np.median(around, 0))
    return Local(float(steps.max()), (int(steps.argmax()) + 2) / FPS)


def luma_drift(luminance_T: np.ndarray) -> Local:
    """Compute `luma_drift`: how far the mean luma of any second lies from that of the first second.

    Unit: grey levels of 255. Source: own definition.

    Raises:
        MeasureUnavailable: for videos under two seconds.
    """
    return furthest(per_second(luminance_T))


def per_second(curve_T: np.ndarray) -> np.ndarray:
    """Average a curve [T] or [T, C] over its whole seconds [S, ...]; NaN where nothing is known."""
    whole = len(curve_T) // FPS
    seconds = curve_T[: whole * FPS].reshape(whole, FPS, *curve_T.shape[1:])
    known = np.isfinite(seconds)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, seconds, 0).sum(1) / known.sum(1)


def furthest(seconds_S: np.ndarray) -> Local:
    """Find the second whose value lies furthest from the first known one.

    Raises:
        MeasureUnavailable: when fewer than two seconds are known.
    """
    known = np.flatnonzero(np.isfinite(seconds_S))
    if len(known) < 2:
        raise MeasureUnavailable("fewer than two seconds of the video can be read", Absence.NOT_APPLICABLE)
    away = np.abs(seconds_S[known] - seconds_S[known[0]])
    return Local(float(away.max()), float(known[away.argmax()]))


def change_pulse(change_T: np.ndarray) -> Local:
    """Compute `change_pulse`: jumps of the picture that come back at a fixed distance, such as those of key frames.

    Every frame's difference is divided by the median of the six frames on each side. For every distance of 4 to 64
    frames and every phase with at least six occurrences, the ratio that three quarters of them reach is taken, and the
    largest of all is the measure. Unit: ratio; 1 = none. Source: own definition.

    Raises:
        MeasureUnavailable: for videos under a second, or when nothing moves.
    """
    total, reach = len(change_T), 6
    if total < FPS:
        raise MeasureUnavailable("the video is shorter than a second", Absence.NOT_APPLICABLE)
    padded = np.pad(change_T, reach, constant_values=np.nan)
    views = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).copy()
    views[:, reach] = np.nan
    local = np.nan_to_num(np.nanmedian(views, axis=1))
    if not (local > STILL).any():
        raise MeasureUnavailable("nothing moves in the video", Absence.FAULT)
    ratio = np.where(local > STILL, np.nan_to_num(change_T, nan=0.0) / np.maximum(local, STILL), 1.0)
    best, at = 1.0, 0
    for period in PERIODS:
        if total < MIN_PULSES * period:
            break
        for phase in range(1, period + 1):
            pulses = ratio[phase::period]
            if len(pulses) >= MIN_PULSES and (middle := float(np.percentile(pulses, PULSES_AT_LEAST))) > best:
                best, at = middle, phase
    return Local(best, at / FPS)


def longest_run(mask_T: np.ndarray) -> tuple[int, int]:
    """Find the longest run of a mask: (first frame, frames); (0, 0) without any."""
    edges = np.flatnonzero(np.diff(np.r_[0, mask_T.astype(np.int8), 0]))
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    if not len(starts):
        return 0, 0
    longest = int(lengths.argmax())
    return int(starts[longest]), int(lengths[longest])
