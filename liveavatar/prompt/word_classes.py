"""Words by class that the lexicons lack: English from WordNet, Chinese verbs from the dictionary of jieba.

Owns `wordnet.txt` and `jieba.txt`, which hold their licences. The class of an English word is that of its most frequent
sense; its words are base forms.
"""

import hashlib
import re
from functools import lru_cache
from pathlib import Path

WORDNET = Path(__file__).with_name("wordnet.txt")
JIEBA = Path(__file__).with_name("jieba.txt")
CLASSES = ("person", "animal", "clothes", "place", "verb", "verb or noun")
_LONGEST_VERB = 3  # Chinese characters


@lru_cache(maxsize=2)
def classes(path: Path = WORDNET) -> dict[str, frozenset[str]]:
    """Read the words of every class."""
    parts = re.split(r"^\[(.+)\]$", path.read_text("utf-8"), flags=re.MULTILINE)
    return {name: frozenset(text.split()) for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def in_class(forms: tuple[str, ...], *names: str) -> bool:
    """Tell if any of a word's base forms belongs to one of the named English classes."""
    return any(form in classes()[name] for name in names for form in forms)


def verb_at(text: str, start: int) -> str:
    """Return the longest Chinese verb that begins at a character, or ""."""
    verbs = classes(JIEBA)["verb"]
    return next((text[start : start + n] for n in range(_LONGEST_VERB, 1, -1) if text[start : start + n] in verbs), "")


def digest() -> str:
    """Return the sha256 of both lists, for the key of what was judged with them."""
    return hashlib.sha256(WORDNET.read_bytes() + JIEBA.read_bytes()).hexdigest()
