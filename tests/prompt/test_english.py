"""English words: base forms, slips of the pen, verbs and persons that the lexicon does not list."""

import pytest

from liveavatar.prompt.english import base_forms, correct, find, words_of


@pytest.mark.parametrize(
    ("word", "entry"), [("yuong", "young"), ("hiar", "hair"), ("brigt", "bright"), ("docter", "doctor")]
)
def test_a_misspelt_word_is_corrected(word: str, entry: str) -> None:
    assert correct(word) == entry


@pytest.mark.parametrize("word", ["wonder", "weight", "xyzzy", "cat", "with"])
def test_a_word_of_its_own_is_not(word: str) -> None:
    assert not correct(word)


@pytest.mark.parametrize(("text", "facet"), [("a barrister rebuts", "action"), ("the spokeswoman", "person")])
def test_unknown_words_are_guessed(text: str, facet: str) -> None:
    assert facet in find(text)[-1].specific


def test_base_forms() -> None:
    assert "nod" in base_forms("nodding")
    assert "smile" in base_forms("smiling")


def test_words_hold_no_punctuation() -> None:
    assert words_of("soft, light; don’t") == ["soft", "light", "don't"]
