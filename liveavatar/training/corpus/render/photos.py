"""In which light and before what a clip and its reference photos are taken.

A training clip has two photos of the same person at rest: one as the clip is, and one in another light, mostly before
another backdrop too. Held-out clips have one, which now and then differs from the clip.
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
        """Which of "light" and "place" are not the same as in `other`."""
        same = {"light": self.light is other.light, "place": self.place is other.place}
        return frozenset(part for part, alike in same.items() if not alike)


def draw_scenery(rng: np.random.Generator, size: tuple[int, int]) -> Scenery:
    """Of a clip; `size` is the picture's height and width."""
    return Scenery(draw_lighting(rng), draw_backdrop(rng, *size))


def draw_held_out_photo(rng: np.random.Generator, clip: Scenery, size: tuple[int, int]) -> Scenery:
    """Of the only photo of a held-out clip: mostly as the clip is."""
    light = draw_lighting(rng, clip.light.name) if rng.random() < HELD_OUT_OTHER_LIGHT else clip.light
    place = draw_backdrop(rng, *size, clip.place.kind) if rng.random() < HELD_OUT_OTHER_PLACE else clip.place
    return Scenery(light, place)


def draw_other_photo(rng: np.random.Generator, clip: Scenery, size: tuple[int, int]) -> Scenery:
    """Of the other photo of a training clip."""
    light = draw_lighting(rng, clip.light.name)
    return Scenery(light, _another_place(rng, clip.place, size) if rng.random() < OTHER_PLACE else clip.place)


def _another_place(rng: np.random.Generator, place: Backdrop, size: tuple[int, int]) -> Backdrop:
    """Another kind of backdrop, or the same in another colour: what words can tell apart."""
    while True:
        drawn = draw_backdrop(rng, *size)
        if drawn.kind != place.kind or (drawn.kind in _IN_COLOURS and drawn.words != place.words):
            return drawn
