"""Colour of the skin against the portrait's: casts that no light makes, lost and swapped colours, drifts.

A prompt may ask for warm or cool light, which moves skin between red and blue; green and magenta casts lie across that
axis, and no light that a prompt names makes them. Inputs are the mean colour of the cheeks of every frame [T, 3] and
of the portrait [3], 0 to 255. All measures are shares of the skin's mean level, so that darkness does not count.
"""

import numpy as np

from liveavatar.quality.absence import Absence, MeasureUnavailable
from liveavatar.quality.windows import Local, per_second

GREEN = np.array([-0.5, 1.0, -0.5])  # against magenta
WARM = np.array([1.0, 0.0, -1.0])  # red against blue
GREY_PORTRAIT = 0.06  # saturation under which a portrait has no colour to compare
DARK = 8.0  # mean level under which a colour is noise


def green_shift(skin_T3: np.ndarray, portrait_3: np.ndarray) -> Local:
    """Compute `green_shift`: the skin's green less its magenta, minus the portrait's, in the second furthest from it.

    (G - (R + B) / 2) / mean level. Unit: share; positive = green. Source: own definition.

    Raises:
        MeasureUnavailable: when no second shows skin.
    """
    return _largest_shift(skin_T3, portrait_3, GREEN)


def warm_shift(skin_T3: np.ndarray, portrait_3: np.ndarray) -> Local:
    """Compute `warm_shift`: the skin's red less its blue, minus the portrait's, in the second furthest from it.

    (R - B) / mean level. Unit: share; negative = colder. Source: own definition.

    Raises:
        MeasureUnavailable: when no second shows skin.
    """
    return _largest_shift(skin_T3, portrait_3, WARM)


def saturation(skin_T3: np.ndarray, portrait_3: np.ndarray) -> float:
    """Compute `saturation_ratio`: the saturation of the skin over the portrait's; 0 = grey. Source: own definition.

    Saturation is the standard deviation of the three colours over their mean; the median over seconds is taken.

    Raises:
        MeasureUnavailable: when no second shows skin, or the portrait has no colour.
    """
    wanted = float(_saturation(portrait_3[None])[0])
    if not wanted > GREY_PORTRAIT:
        raise MeasureUnavailable("the portrait's skin has no colour to compare with", Absence.NOT_APPLICABLE)
    return float(np.median(_saturation(_known_seconds(skin_T3)))) / wanted


def colour_drift(skin_T3: np.ndarray) -> Local:
    """Compute `colour_drift`: how far the colour of the skin in any second lies from that of the first.

    The largest difference of R, G or B over the mean level. Unit: share. Source: own definition.

    Raises:
        MeasureUnavailable: when no second shows skin.
    """
    seconds = _known_seconds(skin_T3)
    balance = seconds / seconds.mean(-1, keepdims=True)
    away = np.abs(balance - balance[0]).max(-1)
    return Local(float(away.max()), float(away.argmax()))


def _known_seconds(skin_T3: np.ndarray) -> np.ndarray:
    seconds = per_second(skin_T3)
    seconds = seconds[np.isfinite(seconds).all(-1)]
    seconds = seconds[seconds.mean(-1) > DARK]
    if not len(seconds):
        raise MeasureUnavailable("no second of the video shows skin", Absence.NOT_APPLICABLE)
    return seconds


def _largest_shift(skin_T3: np.ndarray, portrait_3: np.ndarray, axis: np.ndarray) -> Local:
    shift = _share(_known_seconds(skin_T3), axis) - _share(portrait_3[None], axis)
    worst = int(np.abs(shift).argmax())
    return Local(float(shift[worst]), float(worst))


def _share(colours_N3: np.ndarray, axis: np.ndarray) -> np.ndarray:
    return np.asarray(colours_N3 @ axis / colours_N3.mean(-1))


def _saturation(colours_N3: np.ndarray) -> np.ndarray:
    return np.asarray(colours_N3.std(-1) / np.maximum(colours_N3.mean(-1), 1e-6))
