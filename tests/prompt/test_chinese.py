"""Chinese words: traditional characters, characters inside other words, characters mistaken for others."""

import pytest

from liveavatar.prompt.chinese import find, simplified


def found(text: str) -> dict[str, bool]:
    return {hit.entry: hit.negated for hit in find(text)}


def test_traditional_characters_are_read() -> None:
    assert simplified("寫實鏡頭") == "写实镜头"
    assert "微笑" in found("她微笑著")


@pytest.mark.parametrize(
    ("text", "entry"), [("他穿中山装", "山"), ("来自山西", "山"), ("说明书", "说"), ("光荣", "光")]
)
def test_part_of_another_word_is_no_entry(text: str, entry: str) -> None:
    assert entry not in found(text)


def test_a_single_character_stands_alone() -> None:
    assert "山" in found("他站在山上")


def test_a_negation_ends_at_its_clause() -> None:
    assert found("没有灯光，点头") == {"灯光": True, "点头": False}
    assert not found("忍不住微笑")["微笑"]


def test_a_character_mistaken_for_another() -> None:
    (hit,) = find("眼境")
    assert hit.specific == ["person"]
