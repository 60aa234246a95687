"""The lexicon: lists are split at bars, every facet has words, in a form that the check finds."""

import re

import pytest

from liveavatar.prompt import words_en, words_zh
from liveavatar.prompt.lexicon import FACETS
from liveavatar.prompt.words_en import GENERIC, SPECIFIC


@pytest.mark.parametrize("lexicon", [words_en, words_zh], ids=["English", "Chinese"])
def test_every_facet_has_words_of_its_own(lexicon: object) -> None:
    specific, generic = (getattr(lexicon, name) for name in ("SPECIFIC", "GENERIC"))
    assert set(specific) == set(FACETS)
    assert set(generic) <= set(FACETS)
    assert all(specific[facet] for facet in FACETS)
    assert not any(specific[facet] <= generic.get(facet, frozenset()) for facet in FACETS)


@pytest.mark.parametrize("facet", FACETS)
def test_english_entries_are_what_the_check_looks_up(facet: str) -> None:
    """Lower case, at most four words, no signs that it strips."""
    for entry in SPECIFIC[facet] | GENERIC.get(facet, frozenset()):
        assert re.fullmatch(r"[a-z0-9']+( [a-z0-9']+){0,3}", entry), entry
