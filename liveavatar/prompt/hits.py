"""Entries of the lexicons found in a prompt, and the lexicons by entry."""

from dataclasses import dataclass
from functools import lru_cache

from liveavatar.prompt import words_en, words_zh
from liveavatar.prompt.lexicon import FACETS

Places = list[tuple[str, bool]]  # facets of an entry, and whether it is generic there


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """Entry found in a prompt."""

    entry: str
    places: Places
    at: int  # words (Chinese: characters) before it
    negated: bool  # "no glasses"

    @property
    def specific(self) -> list[str]:
        """Facets about which it says something specific."""
        return [facet for facet, generic in self.places if not generic]


@lru_cache(maxsize=2)
def index_of(language: str) -> dict[str, Places]:
    """Return the facets of every entry of a lexicon, "en" or "zh"."""
    words = words_zh if language == "zh" else words_en
    index: dict[str, Places] = {}
    for facet in FACETS:
        for entry in words.SPECIFIC[facet]:
            index.setdefault(entry, []).append((facet, False))
        for entry in words.GENERIC[facet] - words.SPECIFIC[facet]:
            index.setdefault(entry, []).append((facet, True))
    return index
