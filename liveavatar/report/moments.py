"""Worst moments of a video: where one should look, and what is wrong there.

A moment is a stretch in which a measure is outside its good range for longer than a blink, which changes sharpness,
likeness and picture for a third of a second and is no fault.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from liveavatar.quality.causes import words
from liveavatar.quality.limits import LIMITS
from liveavatar.quality.sync import WINDOW, Speech, window_lags
from liveavatar.timing import FPS

if TYPE_CHECKING:
    import pandas as pd

BLINK = 10  # frames: a fault lasts longer
SECOND = FPS  # frames over which likeness is averaged, as `identity_min` is
MOST = 6  # moments shown
LATE, EARLY = 3, -4  # frames of lag in a window from which it is worth a look (ITU-R BT.1359)
OPEN = 0.5  # of the widest mouth, in a pause
JUMP, JUMP_LEVELS = 5.0, 4.0  # change of one frame over that of its neighbours; grey levels
CHECK_WEIGHTS = {"failed": 4.0, "warned": 1.5}
STILL = 8  # frames without any change
GOOD = {limit.name: limit.good for limit in LIMITS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """A stretch of a video in which something is wrong."""

    frame: int  # to look at
    seconds: float  # of that frame
    label: str  # what is wrong
    weight: float  # 1 at the edge of what is good, more for what is worse


def without_blinks(values: np.ndarray) -> np.ndarray:
    """Take the median of the values in a centred window of twice a blink; missing ones count as their neighbours."""
    length = 2 * BLINK + 1
    finite = np.flatnonzero(np.isfinite(values))
    if not len(finite):
        return np.full(len(values), np.nan)
    filled = np.interp(np.arange(len(values)), finite, values[finite])
    padded = np.pad(filled, length // 2, mode="edge")
    result: np.ndarray = np.median(np.lib.stride_tricks.sliding_window_view(padded, length), axis=-1)
    return result


def worst_moments(frames: "pd.DataFrame", placed: Iterable[Moment] = (), most: int = MOST) -> list[Moment]:
    """Find the worst moments of a video, in the order of their time.

    Args:
        frames: table of the video's frames; columns that it does not have are passed over.
        placed: moments that are known already, from `moments_of_checks`.
        most: moments at most; the worst count.
    """
    found = [moment for moment in placed if moment.frame < len(frames)]
    for find in (_lost_face, _lips, _open_in_pauses, _unlike, _soft, _jumps, _standing):
        if set(_NEEDED[find]) <= set(frames.columns):
            found += find(frames)
    worst = sorted(found, key=lambda moment: -moment.weight)[:most]
    return sorted(worst, key=lambda moment: moment.frame)


def moments_of_checks(checks: Iterable[Mapping[str, Any]], seconds: Mapping[str, float]) -> list[Moment]:
    """List the moments at which checks that did not pass were worst.

    Args:
        checks: of `report.json`.
        seconds: check -> second, where that is known.
    """
    return [
        _moment(round(seconds[check["name"]] * FPS), words(check["name"], float(check["value"])), weight)
        for check in checks
        if (weight := CHECK_WEIGHTS.get(check["status"])) and check["name"] in seconds
    ]


def _lost_face(frames: "pd.DataFrame") -> Iterable[Moment]:
    for start, end in _runs(~frames["face_found"].to_numpy(bool), 3):
        yield _moment((start + end) // 2, f"no face is seen for {(end - start) / FPS:.1f} s", 5.0)


def _lips(frames: "pd.DataFrame") -> Iterable[Moment]:
    openness = frames["openness"].to_numpy(float)
    speech = Speech(frames["envelope"].to_numpy(float), frames["vowel_envelope"].to_numpy(float))
    if np.isfinite(openness).mean() < 0.5:
        return
    windows = window_lags(openness, speech)
    wrong = [(start, lag) for start, lag in windows if lag >= LATE or lag <= EARLY]
    for start, lag in _apart(wrong, WINDOW):
        text = f"the lips are {abs(lag)} frames {'late' if lag > 0 else 'early'}"
        yield _moment(start + WINDOW // 2, text, abs(lag) / LATE)


def _apart(windows: list[tuple[int, int]], distance: int) -> list[tuple[int, int]]:
    """Select windows that do not overlap, the worst first."""
    taken: list[tuple[int, int]] = []
    for window in sorted(windows, key=lambda w: -abs(w[1])):
        if all(abs(window[0] - other[0]) >= distance for other in taken):
            taken.append(window)
    return taken


def _open_in_pauses(frames: "pd.DataFrame") -> Iterable[Moment]:
    openness = frames["openness"].to_numpy(float)
    if not np.isfinite(openness).any():
        return
    widest = max(float(np.nanpercentile(openness, 98)), 1e-6)
    share = np.where(frames["silence"].to_numpy(bool), openness / widest, 0.0)
    for start, end in _runs(np.nan_to_num(share) > OPEN, BLINK):
        middle = start + int(np.nanargmax(share[start:end]))
        yield _moment(middle, "the mouth is open although nothing is said", float(share[middle]) / OPEN)


def _unlike(frames: "pd.DataFrame") -> Iterable[Moment]:
    low = GOOD["identity_min"][0] or 0.0
    likeness = _mean(frames["identity"].to_numpy(float), SECOND)
    for start, end in _runs(np.nan_to_num(likeness, nan=1.0) < low, BLINK):
        middle = start + int(np.nanargmin(likeness[start:end]))
        text = f"the face looks less like the portrait ({100 * likeness[middle]:.0f} %)"
        yield _moment(middle, text, 1 + (low - float(likeness[middle])) / 0.15)


def _soft(frames: "pd.DataFrame") -> Iterable[Moment]:
    low, high = GOOD["sharpness_ratio"]
    sharpness = without_blinks(frames["sharpness_ratio"].to_numpy(float))
    for text, wrong, limit in (
        ("soft", sharpness < (low or 0.0), low or 1.0), ("noisy", sharpness > (high or np.inf), high or 1.0),
    ):  # fmt: skip
        for start, end in _runs(wrong, BLINK):
            ratios = np.abs(np.log(np.maximum(sharpness[start:end], 1e-6) / limit))
            middle = start + int(ratios.argmax())
            share = f"{100 * sharpness[middle]:.0f} % of the portrait's detail"
            yield _moment(middle, f"the face is {text} ({share})", 1 + 2 * float(ratios.max()))


def _jumps(frames: "pd.DataFrame") -> Iterable[Moment]:
    change = frames["change"].to_numpy(float)
    around = without_blinks(change)
    high = (change > JUMP_LEVELS) & (change > JUMP * np.maximum(around, 0.2))
    for start, end in _runs(high, 1):
        middle = start + int(np.nanargmax(change[start:end]))
        if end - start <= 2:  # longer is a fast movement
            yield _moment(middle, "the picture jumps", float(change[middle] / (JUMP * max(around[middle], 0.2))))


def _standing(frames: "pd.DataFrame") -> Iterable[Moment]:
    still = np.nan_to_num(frames["change"].to_numpy(float), nan=1.0) == 0
    for start, end in _runs(still, STILL):
        yield _moment(
            (start + end) // 2, f"the picture stands still for {(end - start) / FPS:.1f} s", (end - start) / STILL
        )


_NEEDED: dict[Callable[["pd.DataFrame"], Iterable[Moment]], tuple[str, ...]] = {
    _lost_face: ("face_found",),
    _lips: ("openness", "envelope", "vowel_envelope"),
    _open_in_pauses: ("openness", "silence"),
    _unlike: ("identity",),
    _soft: ("sharpness_ratio",),
    _jumps: ("change",),
    _standing: ("change",),
}


def _moment(frame: int, label: str, weight: float) -> Moment:
    return Moment(frame=int(frame), seconds=int(frame) / FPS, label=label, weight=weight)


def _runs(mask: np.ndarray, least: int) -> list[tuple[int, int]]:
    """List the runs of True that have at least so many frames: (first, one after the last)."""
    edges = np.flatnonzero(np.diff(np.r_[0, mask.astype(np.int8), 0]))
    return [(a, b) for a, b in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True) if b - a >= least]


def _mean(values: np.ndarray, length: int) -> np.ndarray:
    """Average the finite values in a centred window."""
    finite = np.isfinite(values)
    window = np.ones(length)
    counts = np.convolve(finite, window, "same")
    sums = np.convolve(np.where(finite, values, 0.0), window, "same")
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
