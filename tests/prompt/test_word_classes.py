"""Words by class, from WordNet and the dictionary of jieba."""

import hashlib
from pathlib import Path

import pytest

from liveavatar.prompt.word_classes import CLASSES, JIEBA, SHA256, WORDNET, classes, in_class, verb_at


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("welder", "person"),
        ("beagle", "animal"),
        ("jumpsuit", "clothes"),
        ("creek", "place"),
        ("improvise", "verb"),
        ("jubilant", "mood"),
    ],
)
def test_class_of_a_word(word: str, name: str) -> None:
    assert in_class((word,), name)
    assert not in_class((word,), *(other for other in CLASSES if other != name))


def test_every_class_has_words() -> None:
    assert set(classes()) == set(CLASSES)
    assert min(map(len, classes().values())) > 300


@pytest.mark.parametrize(("text", "start", "verb"), [("他演奏", 1, "演奏"), ("他演奏", 0, ""), ("打瞌睡", 0, "打瞌睡")])
def test_chinese_verb(text: str, start: int, verb: str) -> None:
    assert verb_at(text, start) == verb


def test_licences_are_in_the_lists() -> None:
    assert "Princeton University" in WORDNET.read_text("utf-8")
    assert "MIT License" in JIEBA.read_text("utf-8")


@pytest.mark.parametrize("path", [WORDNET, JIEBA], ids=["wordnet", "jieba"])
def test_digest_of_a_list(path: Path) -> None:
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256[path.name], "write the new digest down"
