"""The bench of heard words: what is asked, what counts as an effect, and the table."""

import numpy as np
import pytest

from liveavatar.bench.heard import LEAST, WORDS, Look, effect_of, lines, prompts_of
from liveavatar.prompt.heard import hear

GREY, RED = np.full(3, 100.0), np.array([160.0, 20.0, 100.0])
PLAIN = Look(lift=1, brow=20, brightness=100, warmth=0, colour=GREY, corner=GREY)


@pytest.mark.parametrize("facet", WORDS)
def test_twelve_words_in_each_language(facet: str) -> None:
    english = [word for words, _ in WORDS[facet].values() for word in words.split("|")]
    chinese = [word for _, words in WORDS[facet].values() for word in words.split("|")]
    assert len(set(english)) == len(set(chinese)) == 12
    assert all(measure.rstrip("+-") in LEAST for measure in WORDS[facet])


@pytest.mark.parametrize(
    ("measure", "look", "effect"),
    [
        ("lift+", Look(lift=4, brow=20, brightness=100, warmth=0, colour=GREY, corner=GREY), 3),
        ("brightness-", Look(lift=1, brow=20, brightness=70, warmth=0, colour=GREY, corner=GREY), 30),
        ("brightness-", Look(lift=1, brow=20, brightness=130, warmth=0, colour=GREY, corner=GREY), -30),
        ("corner", Look(lift=1, brow=20, brightness=100, warmth=0, colour=GREY, corner=RED), 100),
    ],
)
def test_effect_in_the_direction_of_a_measure(measure: str, look: Look, effect: float) -> None:
    assert effect_of(measure, look, PLAIN) == effect


@pytest.mark.parametrize("facet", WORDS)
def test_every_word_changes_what_the_model_reads(facet: str) -> None:
    for pair in WORDS[facet].values():
        for language, words in zip(("en", "zh"), pair, strict=True):
            for word in words.split("|"):
                text = hear(prompts_of(facet, language, word), 32).text
                assert text.removesuffix(".") != "A person speaks to the camera", word


def test_the_table_counts_by_facet_and_language() -> None:
    row = {"facet": "mood", "language": "en", "word": "happy", "measure": "lift+", "effect": 2.0, "least": 1.5}
    table = lines([{**row, "heard": True, "text": "x"}, {**row, "heard": False, "text": "x"}])
    assert "| mood | en | 1 of 2 |" in table
