"""Harmless treatments change a little: the sound keeps its length and level, the picture its look."""

import numpy as np
import pytest

from liveavatar.bench.faults.harmless import PICTURE, SOUND
from tests.puppet import babble


@pytest.mark.parametrize("name", SOUND)
def test_a_treated_sound_is_as_long_and_much_the_same(name: str) -> None:
    sound = babble(1, seed=1)[0]
    treated = SOUND[name](sound)
    assert treated.shape == sound.shape
    assert 0 < np.abs(treated).max() < 1.5 * max(1, np.abs(sound).max())
    assert not np.array_equal(treated, sound)


@pytest.mark.parametrize("name", PICTURE)
def test_a_treated_picture_has_even_sides_and_much_the_same_light(name: str) -> None:
    frame = np.tile(np.linspace(60, 200, 64, dtype=np.float32)[:, None, None], (1, 48, 3))
    treated = PICTURE[name].change(frame, 0)
    assert [side % 2 for side in treated.shape] == [0, 0, 1]
    assert abs(treated.mean() - frame.mean()) < 20
