"""Look-up: entries of English and Chinese stand in the order of the text."""

import pytest

from liveavatar.prompt.lookup import find_hits


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        pytest.param("a woman in a blazer", ["woman", "blazer"], id="English"),
        pytest.param("一位女士穿着西装", ["女士", "西装"], id="Chinese"),
        pytest.param("女士 in a blazer", ["女士", "blazer"], id="both"),
        pytest.param("...", [], id="none"),
    ],
)
def test_entries_are_found_in_the_order_of_the_text(text: str, entries: list[str]) -> None:
    hits = find_hits(text)
    assert [hit.entry for hit in hits if hit.entry in entries] == entries
    assert [hit.at for hit in hits] == sorted(hit.at for hit in hits)
