"""Lighting and backdrop of a clip and of its reference photos.

A training clip has two photos of the same person at rest: one in the scenery of the clip, and one in another light,
mostly before another backdrop too. Held-out clips have one photo, which sometimes differs from the clip.
"""

from dataclasses import dataclass

import numpy as np

from liveavatar.training.corpus.render.look import Backdrop, Lighting, draw_backdrop, draw_lighting

HELD_OUT_OTHER_LIGHT, HELD_OUT_OTHER_PLACE = 0.20, 0.10  # share of held-out clips whose photo differs from the clip
OTHER_PLACE = 0.6  # share of the other photos that differ in place too
_IN_COLOURS = frozenset({"plain", "gradient", "mottled", "curtain"})  # backdrops whose words name their colour


@dataclass(frozen=True, slots=True)
class Scenery:
    """Light and place of a clip or a photo."""

    light: Lighting
    place: Backdrop

    def differs(self, other: "Scenery") -> frozenset[str]:
        """Find the differences from `other`: a set of "light" and "place"."""
        same = {"light": self.light is other.light, "place": self.place is other.place}
        return frozenset(part for part, alike in same.items() if not alike)


def draw_scenery(rng: np.random.Generator, size: tuple[int, int]) -> Scenery:
    """Draw the scenery of a clip; `size` is the picture's height and width."""
    return Scenery(draw_lighting(rng), draw_backdrop(rng, *size))


def draw_held_out_photo(rng: np.random.Generator, clip: Scenery, size: tuple[int, int]) -> Scenery:
    """Draw the scenery of a held-out clip's photo: mostly the same as the clip's."""
    light = draw_lighting(rng, clip.light.name) if rng.random() < HELD_OUT_OTHER_LIGHT else clip.light
    place = draw_backdrop(rng, *size, clip.place.kind) if rng.random() < HELD_OUT_OTHER_PLACE else clip.place
    return Scenery(light, place)


def draw_other_photo(rng: np.random.Generator, clip: Scenery, size: tuple[int, int]) -> Scenery:
    """Draw the scenery of a training clip's other photo."""
    light = draw_lighting(rng, clip.light.name)
    return Scenery(light, _another_place(rng, clip.place, size) if rng.random() < OTHER_PLACE else clip.place)


def _another_place(rng: np.random.Generator, place: Backdrop, size: tuple[int, int]) -> Backdrop:
    """Draw another kind of backdrop, or the same in another colour, so that captions can tell them apart."""
    while True:
        drawn = draw_backdrop(rng, *size)
        if drawn.kind != place.kind or (drawn.kind in _IN_COLOURS and drawn.words != place.words):
            return drawn
