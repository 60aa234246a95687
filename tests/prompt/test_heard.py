"""What the embedded model hears: phrases of its corpus, the important ones first, and no word that it does not know."""

import re
from pathlib import Path

import pytest

from liveavatar.prompt.heard import hear
from liveavatar.prompt.heard_words import COLOURS, GARMENTS, OTHER_WORDS, SLOTS
from liveavatar.training.corpus import captions
from liveavatar.training.corpus.head import avatar, colours
from liveavatar.training.corpus.render import look

WORD = re.compile(r"[a-z0-9]+")
LENGTH = 32


@pytest.mark.parametrize(
    "prompt",
    [
        "A person speaks to the camera.",
        "A woman talks with a still head, soft daylight, a plain red background.",
        "A man speaks to the camera, soft daylight from the left, a plain red background.",
    ],
)
def test_known_words_are_read_as_they_are_written(prompt: str) -> None:
    heard = hear(prompt, LENGTH)
    assert (heard.text, heard.as_written, heard.line) == (prompt, True, "")


@pytest.mark.parametrize(
    ("prompt", "phrase"),
    [
        ("An angry clerk", "frowning slightly"),
        ("一位愤怒的男士", "frowning slightly"),
        ("A delighted barrister beams", "with a friendly smile"),
        ("开心的主持人", "with a friendly smile"),
        ("A jubilant clerk", "with a friendly smile"),
        ("A sombre clerk", "with a serious expression"),
        ("惆怅的女士", "with a serious expression"),
        ("A shocked clerk", "looking surprised"),
        ("dark room, dim light", "moody low-key lighting"),
        ("昏暗的房间", "moody low-key lighting"),
        ("烛光", "warm indoor light"),
        ("霓虹灯", "neon light in pink and blue"),
        ("standing on a beach", "a green park"),
        ("a turquoise wall behind a barrister", "a plain teal background"),
        ("红色的墙前", "a plain red background"),
        ("an enthusiastic auctioneer", "speaks energetically with lively head movement"),
        ("a barrister in a crimson cardigan", "a red sweater"),
    ],
)
def test_a_facet_becomes_a_phrase_of_the_corpus(prompt: str, phrase: str) -> None:
    heard = hear(prompt, LENGTH)
    assert not heard.as_written
    assert phrase in heard.text
    assert phrase in heard.line


def test_negated_words_are_not_heard() -> None:
    assert "smile" not in hear("A barrister, not smiling, gesticulates", LENGTH).text


def test_dark_hair_is_no_dark_light() -> None:
    assert "moody" not in hear("A barrister with dark brown hair gesticulates wildly", LENGTH).text


def test_words_without_a_phrase_are_named() -> None:
    heard = hear("A cat in a forge wears spectacles", LENGTH)
    assert {"cat", "forge"} <= set(heard.unheard)
    assert "not heard: " in heard.line


@pytest.mark.parametrize(
    ("prompt", "unheard"),
    [
        ("An angry clerk wearing a crimson cardigan", []),
        ("A clerk dressed in a black suit, angry", []),
        ("An angry clerk having green eyes and wearing a hat", ["hat"]),
    ],
)
def test_words_that_join_what_is_heard_are_not_named(prompt: str, unheard: list[str]) -> None:
    assert set(hear(prompt, LENGTH).unheard) - {"clerk"} == set(unheard)


def test_clothes_have_the_colour_that_stands_next_to_them() -> None:
    assert "a red sweater" in hear("An angry clerk with white hair wears a red sweater", LENGTH).text


@pytest.mark.parametrize("length", [16, 24, 32])
def test_it_fits_and_what_matters_comes_first(length: int) -> None:
    prompt = (
        "An elderly lady with long red hair, green eyes and a burgundy blazer gesticulates and laughs at sunset in a "
        "library, photorealistic, head and shoulders, tripod, and the room behind her is full of old furniture."
    )
    heard = hear(prompt, length)
    assert len(WORD.findall(heard.text.lower())) <= length
    assert "lively" in heard.text
    assert "friendly smile" in heard.text


@pytest.mark.parametrize("prompt", ["一位女士", "welder nods", "Shakespearean sonnet", "!!!a", "ä ö"])
def test_only_known_words_are_encoded(prompt: str) -> None:
    heard = hear(prompt, LENGTH)
    assert set(WORD.findall(heard.text.lower())) <= OTHER_WORDS


def test_phrases_are_those_of_the_corpus() -> None:
    sources = (captions, look, avatar, colours)
    taught = set(WORD.findall(" ".join(Path(str(module.__file__)).read_text("utf-8") for module in sources).lower()))
    phrases = [phrase.format(colour="") for slot in SLOTS.values() for phrase in slot]
    said = WORD.findall(" ".join([*phrases, *COLOURS, *GARMENTS]).lower())
    assert set(said) | OTHER_WORDS <= taught
    assert set(said) <= OTHER_WORDS | {"over"}
