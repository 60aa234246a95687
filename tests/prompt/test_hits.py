"""Lexicons by entry."""

from liveavatar.prompt.hits import Hit, index_of


def test_an_entry_knows_its_facets() -> None:
    assert index_of("en")["closeup"] == [("camera", False)]
    assert index_of("en")["talk"] == [("action", True)]
    assert ("action", False) in index_of("zh")["微笑"]


def test_generic_places_are_not_specific() -> None:
    hit = Hit(entry="x", places=[("person", True), ("mood", False)], at=0, negated=False)
    assert hit.specific == ["mood"]
