"""Lightings and backdrops are repeatable, in range, and can be told not to repeat."""

import numpy as np
import pytest

from liveavatar.training.corpus.render.look import LIGHTINGS, draw_backdrop, draw_lighting


@pytest.mark.parametrize("name", list(LIGHTINGS))
def test_another_lighting_is_another(name: str) -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_lighting(rng, other_than=name) for _ in range(60)]
    assert name not in {d.name for d in drawn}
    assert all(d.words in LIGHTINGS[d.name].words for d in drawn)
    assert all(np.linalg.norm(d.key_direction) == pytest.approx(1) for d in drawn)


@pytest.mark.parametrize(
    ("height", "width"), [pytest.param(384, 256, id="portrait"), pytest.param(256, 384, id="landscape")]
)
def test_every_kind_of_backdrop(height: int, width: int) -> None:
    rng = np.random.default_rng(1)
    drawn = [draw_backdrop(rng, height, width) for _ in range(40)]
    assert len({d.kind for d in drawn}) >= 6
    for d in drawn:
        assert tuple(d.image.shape) == (3, 192, round(192 * width / height))
        assert d.image.min() >= 0
        assert d.image.max() <= 1.2
        assert d.image.isfinite().all()
        assert d.words


def test_backdrops_repeat_with_the_seed_and_avoid_a_kind() -> None:
    a, b = (draw_backdrop(np.random.default_rng(3), 96, 64) for _ in range(2))
    assert a.words == b.words
    assert (a.image == b.image).all()
    rng = np.random.default_rng(0)
    assert "office" not in {draw_backdrop(rng, 96, 64, other_than="office").kind for _ in range(25)}
