"""Photos: what differs from the clip is another preset and another place that words can tell apart."""

import numpy as np
import pytest

from liveavatar.training.corpus.render import photos
from liveavatar.training.corpus.render.photos import Scenery, draw_held_out_photo, draw_other_photo, draw_scenery

SIZE = (96, 64)


def test_other_photos_are_in_another_light_and_mostly_elsewhere() -> None:
    rng = np.random.default_rng(0)
    clips = [draw_scenery(rng, SIZE) for _ in range(150)]
    others = [draw_other_photo(rng, c, SIZE) for c in clips]
    differences = [c.differs(o) for c, o in zip(clips, others, strict=True)]
    assert all("light" in d for d in differences)
    assert all(c.light.name != o.light.name for c, o in zip(clips, others, strict=True))
    elsewhere = [(c.place, o.place) for c, o in zip(clips, others, strict=True) if "place" in c.differs(o)]
    assert len(elsewhere) / len(clips) == pytest.approx(photos.OTHER_PLACE, abs=0.12)
    assert all(a.words != b.words for a, b in elsewhere)
    alike = [a.kind for a, b in elsewhere if a.kind == b.kind]
    assert set(alike) <= {"plain", "gradient", "mottled", "curtain"}, "two offices are one to a prompt"
    assert "plain" in alike or "gradient" in alike, "another colour of the same kind is another place"


def test_held_out_photos_mostly_look_like_the_clip() -> None:
    rng = np.random.default_rng(0)
    clips = [draw_scenery(rng, SIZE) for _ in range(200)]
    differences = [c.differs(draw_held_out_photo(rng, c, SIZE)) for c in clips]
    assert sum("light" in d for d in differences) / 200 == pytest.approx(photos.HELD_OUT_OTHER_LIGHT, abs=0.08)
    assert sum("place" in d for d in differences) / 200 == pytest.approx(photos.HELD_OUT_OTHER_PLACE, abs=0.06)


def test_scenery_differs_in_what_is_not_the_same() -> None:
    rng = np.random.default_rng(0)
    a, b = draw_scenery(rng, SIZE), draw_scenery(rng, SIZE)
    assert a.differs(Scenery(a.light, a.place)) == frozenset()
    assert a.differs(Scenery(b.light, a.place)) == {"light"}
    assert a.differs(Scenery(a.light, b.place)) == {"place"}
