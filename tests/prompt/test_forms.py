"""Base forms of English words."""

import pytest

from liveavatar.prompt.forms import base_forms, noun_forms


@pytest.mark.parametrize(
    ("word", "form"),
    [("smiles", "smile"), ("nodded", "nod"), ("happily", "happy"), ("cries", "cry"), ("women", "woman")],
)
def test_base_form(word: str, form: str) -> None:
    assert form in base_forms(word)


@pytest.mark.parametrize(
    ("word", "form"),
    [("welders", "welder"), ("schoolchildren", "schoolchild"), ("firemen", "fireman"), ("wolves", "wolf")],
)
def test_noun_form(word: str, form: str) -> None:
    assert form in noun_forms(word)
    assert noun_forms("dress") == ("dress",)
