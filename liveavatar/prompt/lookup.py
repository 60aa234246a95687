"""Look-up of a prompt in both lexicons."""

from liveavatar.prompt import chinese, english
from liveavatar.prompt.hits import Hit


def find_hits(clean: str) -> list[Hit]:
    """Find the entries of both lexicons in lower-case text, in the order of the text."""
    hits = english.find(clean)
    if chinese.HAN.search(clean):
        hits = sorted([*hits, *chinese.find(clean)], key=lambda h: h.at)
    return hits
