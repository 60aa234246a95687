"""Sentences are unique, repeatable, and the held-out ones share no template with training."""

from itertools import islice

import pytest

from liveavatar.training.corpus.speech.texts import EVAL_TEMPLATES, TRAIN_TEMPLATES, WORDS, sentences


@pytest.mark.parametrize("split", [pytest.param("train", id="train"), pytest.param("eval", id="held out")])
def test_two_thousand_sentences_are_unique_and_repeatable(split: str) -> None:
    first = list(islice(sentences(split, 7), 2000))
    assert len(set(first)) == 2000
    assert first[:50] == list(islice(sentences(split, 7), 50))
    assert first[:50] != list(islice(sentences(split, 8), 50))
    assert not any("{" in s or "}" in s for s in first)


def test_splits_share_nothing() -> None:
    assert not set(TRAIN_TEMPLATES) & set(EVAL_TEMPLATES)
    train, held_out = (set(islice(sentences(s, 1), 3000)) for s in ("train", "eval"))
    assert not train & held_out


def test_no_word_list_repeats_a_word() -> None:
    for slot, words in WORDS.items():
        assert len(words) == len(set(words)), slot
