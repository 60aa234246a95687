"""Words by class that the lexicons lack: English from WordNet, Chinese verbs from the dictionary of jieba.

Owns `wordnet.txt` and `jieba.txt`, which hold their licences. The class of an English word is that of its most frequent
sense; its words are base forms.
"""

import re
from functools import lru_cache
from pathlib import Path

WORDNET = Path(__file__).with_name("wordnet.txt")
JIEBA = Path(__file__).with_name("jieba.txt")
SHA256 = {  # of the lists: keys of stored results hold the code, and through it the lists
    WORDNET.name: "e78581d7fa9aef836e61204e27257fce3f6390b268297eff31f044977d1cb538",
    JIEBA.name: "aa7c3ac6b19f61dcf85e115eff78275131c067b9feafeb4f3157e95ca951cef4",
}
CLASSES = ("person", "animal", "clothes", "place", "verb", "verb or noun", "mood")
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
