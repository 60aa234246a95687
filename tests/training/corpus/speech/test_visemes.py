"""Closures reach a frame, silence closes the mouth, louder opens wider."""

import numpy as np
import pytest

from liveavatar.training.corpus.speech.phonemes import Viseme
from liveavatar.training.corpus.speech.visemes import (
    DOMINANCE,
    SHAPES,
    both_sides,
    loudness_gain,
    shape_matrix,
    viseme_curves,
)

NAMES = sorted({n for w in SHAPES.values() for n in both_sides(w)})
JAW, PRESS = NAMES.index("jawOpen"), NAMES.index("mouthPress_L")
MATRIX = shape_matrix(NAMES)


def curves(*events: tuple[float, float, Viseme], frames: int = 25) -> np.ndarray:
    return viseme_curves(np.array(events, np.float32), frames, MATRIX)


def test_every_class_has_a_shape_and_a_dominance() -> None:
    assert set(SHAPES) == set(DOMINANCE) == set(Viseme)


@pytest.mark.parametrize("centre", [pytest.param(0.5 + k * 0.01, id=f"offset {10 * k} ms") for k in range(4)])
def test_a_short_closure_reaches_a_frame(centre: float) -> None:
    got = curves(
        (0.0, centre - 0.03, Viseme.A), (centre - 0.03, centre + 0.03, Viseme.PBM), (centre + 0.03, 1, Viseme.A)
    )
    at = int(centre * 25)
    assert got[at - 1 : at + 2, JAW].min() < 0.2 < 0.5 < got[at - 5, JAW]
    assert got[at - 1 : at + 2, PRESS].max() > 0.3


def test_silence_closes_the_mouth() -> None:
    got = curves((0.0, 0.4, Viseme.A), (0.4, 1.0, Viseme.SIL))
    assert got[5, JAW] > 0.4
    assert np.abs(got[18:]).max() < 0.02


def test_curves_do_not_depend_on_where_the_clip_starts() -> None:
    events = np.array([(0.1, 0.3, 11), (0.3, 0.42, 1), (0.42, 0.9, 9)], np.float32)
    whole = viseme_curves(events, 25, MATRIX)
    later = viseme_curves(events - np.array([0.4, 0.4, 0], np.float32), 15, MATRIX)
    np.testing.assert_allclose(whole[10:], later, atol=1e-5)


def test_nothing_but_rest_without_events() -> None:
    assert not viseme_curves(np.zeros((0, 3), np.float32), 10, MATRIX).any()


def test_louder_opens_wider() -> None:
    noise = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    gains = [loudness_gain(noise * level, 25).mean() for level in (0.0, 0.01, 0.05, 0.3)]
    assert gains == sorted(gains)
    assert gains[0] == pytest.approx(0.88)
    assert gains[-1] == pytest.approx(1.12, abs=0.01)
