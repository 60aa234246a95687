"""Captions name what only they can tell, and vary."""

import re

import numpy as np
import pytest

from liveavatar.training.corpus.captions import caption
from liveavatar.training.corpus.head.avatar import Traits

TRAITS = Traits(
    gender="woman", hair_style="an afro", hair_colour="brown", eyes="hazel", skin="light", stubble=False,
    clothes="a orange blazer over a olive shirt",
)  # fmt: skip


def write(seed: int, must_name: frozenset[str] = frozenset(), mood: str = "smiling") -> str:
    return caption(
        TRAITS, mood, "lively", "golden hour light", "a wall of books", must_name, np.random.default_rng(seed)
    )


@pytest.mark.parametrize(
    ("part", "words"),
    [pytest.param("light", "golden hour light", id="light"), pytest.param("place", "a wall of books", id="place")],
)
def test_what_differs_from_the_photo_is_always_named(part: str, words: str) -> None:
    named = [words in write(s, frozenset({part})) for s in range(100)]
    chance = [words in write(s) for s in range(100)]
    assert all(named)
    assert 50 <= sum(chance) < 95


def test_wording_varies_and_repeats_with_the_seed() -> None:
    assert len({write(s) for s in range(100)}) > 90
    assert write(4) == write(4)


def test_articles() -> None:
    assert not any(re.search(r"\ba [aeiou]", write(s)) for s in range(200))


@pytest.mark.parametrize("mood", ["neutral", "smiling", "serious", "surprised"])
def test_every_mood_is_sayable(mood: str) -> None:
    texts = [write(s, mood=mood) for s in range(30)]
    assert all(t[0].isupper() and "  " not in t and "{" not in t for t in texts)
